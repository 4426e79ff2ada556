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
    usw u.s.w bn u.ä u.a.m o.ä u.v.m mio mrd ecc itd itp enz osv etcétera
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

SPEECH_VERBS = _words("""
    said says asked asks shouted cried replied answered whispered yelled exclaimed called added
    snapped muttered screamed wondered demanded laughed sighed
""")
"""`"Stop!" John shouted.` is one sentence."""
