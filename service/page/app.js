// The page: what is asked, what is known about the answer, and what is shown of it.

import * as answer from "./answer.js";
import * as api from "./api.js";
import * as context from "./context.js";
import { byId, element, save } from "./dom.js";
import * as editor from "./editor.js";
import * as findings from "./findings.js";
import * as matrix from "./matrix.js";

const LIT = 24; // sources that are marked at once
const FAINT = 0.04; // share of the best score below which a source is not marked
const SCORES = 20_000; // statements × sources asked for at once
const VERIFIED = 5; // sources that are removed to verify
const COPIED_MS = 2000;

const METHODS = {
  at2: "AT2 (trained on attention)",
  average_attention: "Average attention",
  contrastive_attention: "Contrastive attention",
  fusion: "Fusion (AT2 and shared words)",
  leave_one_out: "Leave one out",
  context_cite: "ContextCite",
  visibility_gradient: "Visibility gradient",
  gradient_norm: "Gradient norm",
  input_x_gradient: "Input × gradient",
  random: "Control: random",
  position: "Control: position",
  lexical_overlap: "Control: shared words",
};

let info = null;
let session = null; // {record, prompt, found: Map} of the answer that is shown
let statements = []; // attributions of all its statements, for the level and method in use
let view = null; // {span} or {source}: what is pinned
let running = null; // AbortController of the generation
let turn = 0; // counts what was to be shown, so that a late reply is not

// -- words to the person -------------------------------------------------------------------------

function announce(text) {
  byId("announce").textContent = text;
}

function complain(text) {
  byId("notice-text").textContent = text;
  byId("notice").hidden = false;
}

function excuse() {
  byId("notice").hidden = true;
}

/** Run something that talks to the server; ask for a key where one is needed, and try once more. */
async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    if (error.name === "AbortError") return undefined;
    if (!(error instanceof api.ApiError)) throw error;
    if (error.status === 401 && (await askForKey(error.message))) return attempt(work);
    complain(error.message);
    return undefined;
  }
}

let keyAsked = null; // one dialog for all requests that wait for a key

function askForKey(message) {
  keyAsked ??= new Promise((resolve) => {
    const dialog = byId("key-dialog");
    byId("key-title").textContent = message;
    byId("key-input").value = "";
    dialog.returnValue = "";
    dialog.showModal();
    dialog.addEventListener(
      "close",
      () => {
        keyAsked = null;
        const value = byId("key-input").value.trim();
        const given = dialog.returnValue === "use" && value !== "";
        if (given) {
          api.key.set(value);
          byId("key").hidden = false;
          excuse();
        }
        resolve(given);
      },
      { once: true },
    );
  });
  return keyAsked;
}

// -- what serves ---------------------------------------------------------------------------------

async function loadInfo() {
  info = await attempt(api.info);
  if (!info) return;
  const names = info.estimators.map(({ name }) => name);
  byId("served-by").replaceChildren(
    "Model ",
    element("b", {}, info.model),
    ...(names.length ? [", estimator ", element("b", {}, names.join(", "))] : [", no estimator"]),
    `, up to ${info.max_context_tokens.toLocaleString("en")} tokens.`,
  );
  fill("level", info.source_types, (level) => level);
  byId("level").value = "sentence";
  fill("method", info.methods, (method) => METHODS[method] ?? method);
  byId("method").value = info.default_method;
  fill("estimator", names, (name) => name);
  byId("estimator-label").hidden = names.length < 2;
  const examples = await attempt(api.examples);
  byId("examples").replaceChildren(
    ...(examples ?? []).map((example) =>
      element(
        "button",
        {
          type: "button",
          class: "chip",
          onclick: () => {
            editor.setDocuments(example.documents);
            byId("question").value = example.query;
            ask();
          },
        },
        example.label,
      ),
    ),
  );
}

function fill(id, values, name) {
  byId(id).replaceChildren(...values.map((value) => element("option", { value }, name(value))));
}

// -- asking --------------------------------------------------------------------------------------

function showReading(documents) {
  document.querySelector("main").classList.add("reading");
  byId("editor").hidden = true;
  byId("edit").hidden = false;
  byId("context").hidden = false;
  byId("context-hint").hidden = false;
  context.show(documents);
}

function showEditor() {
  document.querySelector("main").classList.remove("reading");
  byId("editor").hidden = false;
  byId("edit").hidden = true;
  byId("context").hidden = true;
  byId("context-hint").hidden = true;
  editor.focusText();
}

function busy(on) {
  byId("ask").disabled = on;
  byId("stop").hidden = !on;
  byId("answer").setAttribute("aria-busy", String(on));
}

async function ask() {
  const documents = editor.documents();
  const query = byId("question").value.trim();
  excuse();
  if (!documents.length) {
    showEditor();
    complain("There is no context yet. Paste a text, open a file, or try an example.");
    return;
  }
  if (!query) {
    complain("There is no question yet. Write one and ask again.");
    byId("question").focus();
    return;
  }
  running?.abort();
  const mine = (running = new AbortController());
  turn++;
  [session, view, statements] = [null, null, []];
  showReading(documents);
  byId("steps").hidden = true;
  byId("answer-section").hidden = false;
  byId("findings-section").hidden = true;
  byId("matrix-section").hidden = true;
  byId("whole").hidden = true;
  answer.stream("");
  busy(true);
  announce("Answering.");
  let text = "";
  const record = await attempt(() => {
    text = "";
    return api.generate(
      { documents, query },
      (piece) => {
        text += piece;
        if (running === mine) answer.stream(text);
      },
      mine.signal,
    );
  });
  if (running !== mine) return; // asked again meanwhile
  running = null;
  busy(false);
  if (!record) {
    if (!text) byId("answer-section").hidden = true;
    announce("");
    return;
  }
  history.pushState(null, "", record.expires === null ? "/" : `/?id=${encodeURIComponent(record.id)}`);
  await open(record, { documents, query });
}

/** Show a finished answer. */
async function open(record, prompt) {
  session = { record, prompt, found: new Map(), supports: [] };
  byId("steps").hidden = true;
  byId("answer-section").hidden = false;
  byId("findings-section").hidden = false;
  byId("whole").hidden = record.statements.length < 2;
  byId("link").hidden = byId("export-html").hidden = record.expires === null;
  answer.show(record.response, record.statements);
  const limit = { length: "length", deadline: "time" }[record.finish_reason];
  const ending = limit ? ` It was cut off at the limit of its ${limit}.` : "";
  announce(`Answer: ${record.response || "empty"}.${ending}`);
  view = { span: record.statements[0] ?? null };
  await measure();
  await showSupport();
}

async function openLink() {
  const id = new URLSearchParams(location.search).get("id");
  if (!id && session) showEditor(); // back to before the first answer
  if (!id || session?.record.id === id) return;
  const before = session;
  const found = await attempt(() => Promise.all([api.record(id), api.prompt(id)]));
  if (!found || session !== before || running) return;
  const [record, prompt] = found;
  editor.setDocuments(prompt.documents);
  byId("question").value = prompt.query;
  showReading(prompt.documents);
  await open(record, prompt);
}

// -- attribution ---------------------------------------------------------------------------------

const choices = () => ({
  source_type: byId("level").value,
  method: byId("method").value,
  ...(["at2", "fusion"].includes(byId("method").value) && info?.estimators.length > 1 ? { estimator: byId("estimator").value } : {}),
});

/** The answer of the session as POST /attribute takes it; a server that keeps nothing gets it all. */
function subject() {
  const { record, prompt } = session;
  if (record.expires !== null) return { id: record.id };
  const { documents, query } = prompt;
  return { documents, query, response: record.response };
}

/** Ask once; the same question again is answered from memory. */
async function attributions(wanted) {
  const body = { ...subject(), ...choices(), ...wanted };
  const name = JSON.stringify([choices(), wanted]);
  const { found } = session;
  if (!found.has(name)) {
    const reply = await attempt(() => api.attribute(body));
    if (!reply) return null;
    found.set(name, reply.attributions);
  }
  return found.get(name);
}

function most() {
  return Math.min(10_000, Math.max(50, Math.floor(SCORES / Math.max(1, session.record.statements.length))));
}

const same = (a, b) => a.start === b.start && a.end === b.end;

/** Attribute every statement by the level and method chosen, and show what is pinned. */
async function measure() {
  const current = session;
  const { record } = current;
  const chosen = JSON.stringify(choices());
  statements = [];
  byId("matrix-section").hidden = true;
  byId("actions").hidden = record.statements.length === 0;
  if (!record.statements.length) {
    findings.say("Sources", "The answer has no statement that could be attributed.");
    return;
  }
  findings.say("Sources", "Measuring…", { busy: true });
  const found = await attributions({ split_by: "sentence", top_k: most() });
  if (session !== current || JSON.stringify(choices()) !== chosen) return; // asked again meanwhile
  if (!found) {
    findings.say("Sources", "There are no scores: see the message above, then choose again.");
    return;
  }
  statements = found;
  const sources = new Map();
  for (const { sources: list } of found) for (const source of list) sources.set(source.index, source);
  context.setSources([...sources.values()]);
  matrix.show(found, { onStatement: (statement) => choose(statement), onSource: showUses });
  byId("matrix-section").hidden = found.length < 2; // one statement is the ranking itself
  if (view?.source !== undefined) view = { span: record.statements[0] };
  await render();
}

/** Label every statement with what the context is worth to it: two passes, whatever is chosen. */
async function showSupport() {
  const current = session;
  if (!current?.record.statements.length) return;
  const body = { ...subject(), split_by: "sentence", top_k: 1, support: true };
  const reply = await attempt(() => api.attribute(body));
  if (session !== current || !reply) return;
  current.supports = reply.attributions.map(({ start, end, support, verdict }) => ({ start, end, support, verdict }));
  answer.support(current.supports);
}

async function attributionOf(span) {
  const known = statements.find((statement) => same(statement, span));
  if (known) return known;
  return (await attributions({ start: span.start, end: span.end, top_k: 100 }))?.[0] ?? null;
}

const verifyRequest = ({ start, end }) => ({ start, end, top_k: VERIFIED, verify: true });

function shares(attribution) {
  const top = Math.max(...attribution.sources.map(({ score }) => score), 0);
  if (top <= 0) return new Map();
  return new Map(
    attribution.sources
      .slice(0, LIT)
      .filter(({ score }) => score / top > FAINT)
      .map(({ index, score }) => [index, score / top]),
  );
}

/** Show what is pinned. */
async function render() {
  if (!session || !view) return;
  if (view.source !== undefined) return showUses(view.source);
  const { span } = view;
  const mine = ++turn;
  answer.tint(null);
  answer.press(span);
  const whole = { start: 0, end: [...session.record.response].length };
  byId("whole").setAttribute("aria-pressed", String(same(whole, span)));
  byId("verify").hidden = false;
  const attribution = await attributionOf(span);
  if (mine !== turn || !attribution) return;
  present(attribution);
}

/** Light up the sources of a span and rank them. */
function present(attribution) {
  const verified = session.found.get(JSON.stringify([choices(), verifyRequest(attribution)]));
  context.light(shares(attribution));
  findings.ranking(attribution, {
    labels: labels(),
    verification: verified?.[0].verification ?? null,
    onShow: (index) => context.reveal(index),
  });
}

function labels() {
  const { documents } = session.prompt;
  return documents.map(({ title }, place) => title || (documents.length > 1 ? `Document ${place + 1}` : null));
}

function choose(span) {
  view = { span: { start: span.start, end: span.end } };
  return render();
}

/** Light up what a statement used while the pointer is over it; what is pinned comes back. */
function point(statement) {
  if (!session || !statements.length) return;
  if (statement === null) {
    if (view?.source === undefined) render();
    return;
  }
  const attribution = statements.find((other) => same(other, statement));
  if (attribution && view?.source === undefined) present(attribution);
}

/** The other way round: which statements used a source. */
function showUses(index) {
  turn++;
  view = { source: index };
  const list = statements.map((statement) => {
    const place = statement.sources.findIndex((source) => source.index === index);
    const top = Math.max(statement.sources[0]?.score ?? 0, 0);
    const source = statement.sources[place];
    const share = source && top > 0 ? Math.max(0, source.score / top) : 0;
    return { statement, source, score: source?.score ?? 0, best: top, share, rank: source?.rank ?? null };
  });
  const source = list.find((use) => use.source)?.source;
  if (!source) return;
  answer.press(null);
  answer.tint(list.map(({ share }) => share));
  byId("whole").setAttribute("aria-pressed", "false");
  byId("verify").hidden = true;
  context.light(new Map([[index, 1]]), { keep: index });
  list.sort((a, b) => b.share - a.share);
  findings.uses(source, list, choose);
  announce(`Used most by: ${list[0].statement.text}`);
}

async function verify() {
  if (view?.span === undefined) return;
  const { span } = view;
  const button = byId("verify");
  button.disabled = true;
  byId("findings").setAttribute("aria-busy", "true");
  announce("Removing the sources and measuring.");
  const found = await attributions(verifyRequest(span));
  button.disabled = false;
  byId("findings").setAttribute("aria-busy", "false");
  if (!found || view?.span !== span) return;
  await render();
  const drop = found[0].verification?.drop_together;
  announce(drop === undefined ? "There is no source to remove." : `Measured: drop ${drop.toFixed(2)} nats.`);
}

// -- export --------------------------------------------------------------------------------------

function exportJson() {
  const { record, prompt, found, supports } = session;
  const measured = [...found.values()].flat().filter(({ verification }) => verification);
  const content = { generation: record, documents: prompt.documents, query: prompt.query, ...choices() };
  const text = JSON.stringify({ ...content, attributions: statements, verified: measured, supports }, null, 2);
  save(`${record.id}.json`, new Blob([text], { type: "application/json" }));
}

async function exportHtml() {
  const { id } = session.record;
  const file = await attempt(() => api.exported(id, choices()));
  if (file) save(`${id}.html`, file);
}

async function copyLink() {
  const button = byId("link");
  try {
    await navigator.clipboard.writeText(location.href);
    button.textContent = "Copied";
  } catch {
    complain(`The browser did not allow copying. The link is ${location.href}`);
  }
  setTimeout(() => (button.textContent = "Copy link"), COPIED_MS);
}

// -- light and dark ------------------------------------------------------------------------------

const isDark = () =>
  (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) ===
  "dark";

function showTheme() {
  byId("theme").setAttribute("aria-pressed", String(isDark()));
}

function switchTheme() {
  const theme = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem("at2-theme", theme);
  } catch {
    // storage is switched off: the choice lasts as long as the page
  }
  showTheme();
}

// -- start ---------------------------------------------------------------------------------------

editor.start(complain);
context.start(showUses);
answer.start({
  onPoint: point,
  onChoose: choose,
  onSelect: (span) => session && statements.length && choose(span),
});
showTheme();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);
byId("key").hidden = !api.key.get();
byId("theme").addEventListener("click", switchTheme);
byId("notice-close").addEventListener("click", excuse);
byId("edit").addEventListener("click", showEditor);
byId("stop").addEventListener("click", () => running?.abort());
byId("verify").addEventListener("click", verify);
byId("link").addEventListener("click", copyLink);
byId("export-json").addEventListener("click", exportJson);
byId("export-html").addEventListener("click", exportHtml);
byId("whole").addEventListener("click", () => choose({ start: 0, end: [...session.record.response].length }));
for (const id of ["level", "method", "estimator"])
  byId(id).addEventListener("change", () => {
    excuse();
    measure();
  });
byId("key").addEventListener("click", async () => {
  if (await askForKey("Enter another API key")) location.reload();
});
byId("ask-form").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
byId("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  ask();
});
addEventListener("popstate", openLink);
await loadInfo();
await openLink();
