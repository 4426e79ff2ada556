"""Words that decide whether a stop ends a sentence, in one table for all languages.

Only data. Keys are in lower case, without the last stop and without white space: `z. B.` is `z.b`.
Single letters (initials, `г.`, `m.`) and dotted letters (`U.S.`, `J.R.R.`) need no entry: they are
taken for abbreviations that end a sentence only before one of `SENTENCE_STARTERS`.
"""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NEVER_FINAL = _words("""
    dr mr mrs ms mx messrs mme mlle mmes prof profs rev fr hon gen sen rep gov pres lt col cmdr
    capt cpt sgt cpl maj adm brig supt insp det amb atty msgr mt mts
    vs cf viz ibid e.g eg i.e ie approx esp incl excl resp ca
    hr hrn frl dipl ing z.b z.bsp d.h i.d.r u.u sog bzw vgl bes einschl evtl ggf inkl zzgl abzgl mag
    mgr pr vve c.-à-d p.ex
    sra srta dra dña lic ee p.ej av avda admón gral
    sig dott avv arch geom rag egr gent spett
    exmo exma profa eng arq
    dhr mevr mw drs bijv d.w.z o.a m.b.t
    ul np tzn tj mgr inż hab św płk
    t.ex bl.a dvs f.eks bl
    г-н г-жа гр проф акад доц ген ул пр пл просп пер тов св т.е т.к т.н т.о напр
    д-р см ср обл наб
    डॉ प्रो पं श्री सुश्री कु
""")
"""Titles and connecting words: what they belong to follows."""

BEFORE_NUMBER = _words("""
    no nos n° nr nrs fig figs sec secs ch chap vol vols art arts eq eqs pp par para tab app ex op
    wt ht qty amt temp avg max dia diam wid alt lat ext rm cat mod ser reg pat const amend cl subd
    id iss suppl lfg jg
    ed eds est pt ver ff lect prop thm lem cor ref refs
    jan feb mar apr jun jul aug sep sept oct nov dec okt dez mai
    abb bd kap abs ziff rn str
    núm pág págs cap n.º tít n.o pag pagg rys tel fax
    стр рис табл гл пп ст разд кв корп
""")
"""Abbreviations only before a number; ordinary words otherwise (`No. He stayed.`)."""

FINAL_BEFORE_CAPITAL = _words("""
    etc a.m p.m am pm ph.d m.sc b.sc m.phil d.phil
    ft oz lb lbs yd mi mph hr hrs min mins gal cu tsp tbsp
    usw u.s.w bn u.ä u.a.m o.ä u.v.m ecc itd itp enz osv etcétera
    т.д т.п др пр. проч тыс млн млрд руб коп чел
    н.э
""")
"""Abbreviations that end the sentence if a capital letter follows."""

FINAL_BEFORE_STARTER = _words("""
    inc corp ltd co cos llc plc bros assn assoc dept univ inst mfg im им mm intl natl govt
    jr sr esq st ste ave blvd rd pkwy hwy sq bldg apt et.al al dist
    calif conn fla mich minn tenn tex wis ariz okla penn
    mon tue tues wed thu thur thurs fri
    u.a v.chr n.chr chr gmbh mwst jh jhd hbf geb gest verh ust
    boul env éd
    d.c s.a ee.uu uu ud uds vd vds p.d
    a.c s.p.a s.r.l n.v b.v e.d
    r.n m.d b.a m.a j.d d.d.s ll.b ll.m
    гг вв экз
    म.प्र उ.प्र रु सं
    κα π.χ κ.λπ κλπ
""")
"""Abbreviations that end the sentence only if a typical first word of one follows."""

CITATION_WORDS = _words("""
    fed evid civ crim am proc app supp cir ct cal stat cert jur juris rptr harv yale univ colum
    legis
    rev lett phys chem soc acad sci natl am nat commun biol biochem physiol clin med surg
    psychol psychiatr neurol immunol pharmacol epidemiol genet microbiol math appl comput mech symp
    conf trans bull eur amer geophys astrophys astron opt mater env environ educ econ philos hist
    ling engl q pub pat ann mod nutr const biophys oncol cardiol pediatr radiol pathol virol ecol
    zool entomol sociol anthropol adv curr opin scand bankr exp bd educ
    ala ariz ark colo del ga ill ind kan mass md mich minn mo mont neb nev okla ore pa tex va vt
    wash wis wyo
""")
"""Written with a capital, these are parts of the names of courts, laws and journals (`Fed. R. Evid.
403`, `Phys. Rev. Lett. 77`)."""

COUNTED = _words("""
    mio mrd tsd bio std sek min stk pkg
""")
"""With a capital and after a number, German measures of the noun that follows: `5 Mio. Euro`."""

COMPOUND_ENDINGS = ("str", "nr", "pl")
"""German compounds that end so are shortened before a number: `Hauptstr. 5`, `Hausnr. 7`."""

TIME_FOLLOWERS = _words("""
    monday tuesday wednesday thursday friday saturday sunday
    january february march april may june july august september october november december
    est edt et cst cdt ct mst mdt mt pst pdt pt gmt utc bst cet cest ist jst eastern central
    mountain pacific
""")
"""What may follow `a.m.` and `p.m.` with a capital inside a sentence."""

SENTENCE_STARTERS = _words("""
    the a an this that these those he she it they we you i his her its their our my your
    in on at but and or so if when while after before since until however there here what who why
    how where which then although though because as for from with without by not no yes yet
    is are was were do does did can could would have has had let please meanwhile moreover
    furthermore therefore thus also both all some many most each every several another one two
    nobody nothing everyone everybody someone during under over between today now later finally
    according despite unlike like only even once among
    der die das den dem des ein eine einer einem er sie es wir ihr ich sein seine ihre unser im am
    zum zur und aber oder doch denn wenn als wie wo was wer warum dann danach dort hier diese dieser
    dieses auch nach vor seit bei mit von aus auf für durch über unter jetzt heute nur alle
    jedoch außerdem deshalb trotzdem niemand
    le la les l un une il elle ils elles on nous vous je ce cette ces cela c'est mais et ou donc
    dans en au aux pour par sur avec sans après avant quand si sa ses leur leurs notre puis
    el los las él ella ellos ellas uno una unos unas su sus este esta estos estas eso esto es pero
    y con por para cuando como según sin sobre entre desde hasta luego después también se nadie
    lo gli uno non ma questo questa nel nella con anche dopo poi
    o os um uma ele ela eles elas seu sua no na nos nas mas com depois também não
    de het een hij zij ze dit dat er maar ook naar na toen
    on ona ono oni to ta w z nie ale jest po
    det den hon de vi jag jeg och og
    он она оно они мы вы я это эта этот эти в во на по но и а с со к ко у о об из за от до для как
    что кто когда где если после потом затем его её их мой наш там тут здесь не также однако
    поэтому при под над все всё так теперь сейчас
""")
"""Capitalised, these begin a sentence far more often than they are part of a name."""

NAME_PARTICLES = _words("""
    le la les de di da del della des du den der das die el al los las van von dos do the
""") - {"the"}
"""Sentence starters that also follow initials: `M. Le Pen`, `J. De Niro`."""

LABEL_NOUNS = _words("""
    size cup row seat lane wing hall channel key drive disk disc exit form annex zone area unit
    region sample node vertex factor protein influenza virus series batch lot item tier track cell
    column building bus line platform stage formula hypothesis condition method protocol scenario
    chapter volume set index variable parameter state phase cohort arm fund bond share stock film
    plan vitamin vitamins group hepatitis type grade class category option team section part point
    appendix exhibit figure table box case step phase version block terminal gate platform
    schedule level room side line answer question company variant model
""")
"""A single letter after one of these is a name (`vitamin C`), not an initial."""

MONTHS = _words("""
    januar jänner februar märz april mai juni juli august september oktober november dezember
    januari februari maart mei augustus desember marts maj oktober
    jan feb mär apr jun jul aug sep sept okt nov dez
    január február březen ledna února března dubna
""")
"""Month names of languages that write `3. Oktober`."""

ORDINAL_CONTEXT = _words("""
    am der die das den dem des im vom zum zur beim ab bis seit ein eine einen einem einer eines
    und jeder jede jedes dieser diese dieses ihr ihre ihrem ihren sein seine seinem seinen
    den det ved fra til
""")
"""Words before a number that make `2.` an ordinal (`der 2. Weltkrieg`)."""

ORDINAL_NOUNS = _words("""
    jahrhundert jahrhunderts jahrtausend weltkrieg weltkriegs bundesliga liga auflage platz klasse
    stock etage kapitel akt
""")
"""German nouns that are counted: `2. Weltkrieg` begins with no item's number."""

TITLED_PARTS = _words("""
    chapter part section article figure table step exercise example theorem lemma proposition
    corollary definition remark box appendix annex exhibit scene act book rule clause
    kapitel teil abschnitt artikel abbildung tabelle schritt anhang
    chapitre partie article titre tableau étape annexe capítulo artículo sección tabla figura paso
    capitolo articolo sezione tabella passo capítulo artigo seção tabela hoofdstuk artikel
    глава статья раздел часть таблица рисунок
""") | {"§"}
"""With a number or letter they begin a heading or a caption: `Figure 1. The whole model.`"""

SPEECH_VERBS = _words("""
    said says say cried cries asked asks answered answers replied replies exclaimed exclaims called
    calls shouted shouts yelled yells screamed screams shrieked howled roared bellowed barked
    thundered boomed growled snarled hissed snapped spat whispered whispers murmured muttered
    mumbled
    mouthed breathed sighed sighs groaned moaned whimpered whined sobbed wept gasped panted croaked
    laughed laughs giggled chuckled snickered grinned grins smiled smiles beamed smirked sneered
    scoffed snorted jeered teased joked quipped crowed cheered sang chanted purred cooed drawled
    stammered stuttered blurted sputtered spluttered gushed begged pleaded implored urged pressed
    insisted protested objected argued countered retorted rejoined returned responded responds
    repeated echoed agreed admitted conceded confessed acknowledged assured promised swore vowed
    declared declares announced proclaimed stated remarked remarks observed noted commented mused
    pondered wondered thought demanded commanded ordered warned threatened scolded chided accused
    complained grumbled grunted lamented explained suggested offered proposed added continued
    began interrupted interjected inquired enquired queried questioned prompted greeted told
    squealed squeaked chirped piped hollered wailed rasped hooted marvelled marveled fumed raged
    recalled concluded finished lied guessed ventured
""")
"""`"Stop!" John shouted.` is one sentence."""

CONNECTORS = _words("""
    a an the of to at by in on for from with into onto upon and or nor but than that which who whose
    whom as if when while because although though whether is are was were be been has have had
    will would could may might must shall should its their his her our your my these those
    between among through
    during under about against without within toward towards per via
    der die das des dem den ein eine einen einem einer eines und oder aber als wie von vom zum zur
    im am bei für durch unter seit dass daß weil ist sind war wird wurde sehr
    le la les un une des du de et ou mais que qui dont dans aux pour par sur avec sans est sont
    el los las unos unas del y pero con por para según sin es son se su sus
    il lo gli uno di nel nella per tra fra che sono
    um uma os dos das nos nas ao em com são het een van op voor uit bij en dat zijn
    w z na od dla że jest oraz och att som på med av till det är
    и в во на с к о об от до для из за что как но или у при
""")
"""A line without a stop that ends in one of these goes on in the next."""
