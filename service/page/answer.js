// The answer: its statements to point at, and any part of it to select with mouse or keyboard.
//
// However a part is selected, it becomes the browser's own selection, and that is what is read.

import { byId, element } from "./dom.js";
import { Text, words } from "./text.js";

const root = byId("answer");
const SETTLED_MS = 250; // a selection that still grows is not asked about

let text = new Text("");
let statements = []; // {start, end} in code points
let places = []; // words as UTF-16 ranges
let caret = null; // [anchor, focus]: numbers of words selected by keyboard
let pinned = null; // the statement that is chosen
let timer = 0;

/** Show a piece of text that is still being written. */
export function stream(string) {
  [statements, places, caret] = [[], [], null];
  root.replaceChildren(string);
}

/** Show a finished response with its statements. */
export function show(response, list) {
  text = new Text(response);
  [statements, places, caret, pinned] = [list, words(response), null, null];
  const made = [];
  let place = 0;
  list.forEach(({ start, end }, number) => {
    if (start > place) made.push(text.slice(place, start));
    made.push(
      element(
        "span",
        {
          class: "statement",
          role: "button",
          tabindex: number ? "-1" : "0",
          "aria-pressed": "false",
          "data-statement": number,
        },
        text.slice(start, end),
      ),
    );
    place = end;
  });
  if (place < text.length) made.push(text.slice(place, text.length));
  root.replaceChildren(...made);
}

const nodes = () => [...root.querySelectorAll(".statement")];

/** Mark which statement is chosen, or none. */
export function press(span) {
  pinned = null;
  nodes().forEach((node, number) => {
    const on = span !== null && statements[number].start === span.start && statements[number].end === span.end;
    if (on) pinned = number;
    node.setAttribute("aria-pressed", String(on));
  });
  if (pinned !== null) focusable(pinned);
}

/** Tint statements by how much they used a source: a list of shares, or null for none. */
export function tint(shares) {
  nodes().forEach((node, number) => {
    node.classList.toggle("used", shares !== null);
    node.style.setProperty("--share", shares === null ? "0" : shares[number].toFixed(3));
  });
}

const MEANINGS = {
  supported: "The context made the model say this",
  weak: "The context made this a little more likely",
  "from memory": "The model says this without the context, too",
};

/** Label statements with what the context is worth to each: the API's attributions, in order. */
export function support(list) {
  nodes().forEach((node, number) => {
    const { support: gain, verdict } = list[number];
    const nats = `${gain < 0 ? "−" : "+"}${Math.abs(gain).toFixed(2)} nats`;
    // not in the text itself, which is selected and counted
    node.dataset.support = verdict ?? nats;
    node.title = `${MEANINGS[verdict] ?? "What the context is worth here"}: ${nats} a token.`;
  });
}

function focusable(number) {
  nodes().forEach((node, other) => node.setAttribute("tabindex", other === number ? "0" : "-1"));
}

/** UTF-16 offset in the answer of a place in its nodes. */
function offsetOf(node, offset) {
  const range = new Range();
  range.setStart(root, 0);
  range.setEnd(node, offset);
  return range.toString().length;
}

/** The code points that are selected in the answer, without white space at the ends; or null. */
function selected() {
  const selection = getSelection();
  if (selection.isCollapsed || selection.rangeCount === 0) return null;
  const range = selection.getRangeAt(0);
  const whole = new Range();
  whole.selectNodeContents(root);
  if (!range.intersectsNode(root)) return null;
  const starts = range.compareBoundaryPoints(Range.START_TO_START, whole) >= 0;
  const ends = range.compareBoundaryPoints(Range.END_TO_END, whole) <= 0;
  if (!starts && !ends) return null; // everything on the page is selected
  let start = starts ? offsetOf(range.startContainer, range.startOffset) : 0;
  let end = ends ? offsetOf(range.endContainer, range.endOffset) : text.string.length;
  const part = text.string.slice(start, end);
  start += part.length - part.trimStart().length;
  end -= part.length - part.trimEnd().length;
  if (end <= start) return null;
  const [from, to] = text.cover(start, end);
  return { start: from, end: to };
}

/** Make a UTF-16 range of the answer the browser's selection. */
function select(start, end) {
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  let passed = 0;
  let from = null;
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const length = node.data.length;
    if (from === null && start < passed + length) from = [node, start - passed];
    if (from !== null && end <= passed + length) {
      getSelection().setBaseAndExtent(...from, node, end - passed);
      return;
    }
    passed += length;
  }
}

function moveWord(number, step, extend) {
  if (!places.length) return;
  const clamp = (word) => Math.max(0, Math.min(places.length - 1, word));
  if (caret === null) {
    const begin = text.unit(statements[number].start);
    const end = text.unit(statements[number].end);
    const inside = places.flatMap(([start], word) => (start >= begin && start < end ? [word] : []));
    const first = clamp((step > 0 ? inside[0] : inside.at(-1)) ?? 0);
    caret = [first, first];
  } else {
    const focus = clamp(caret[1] + step);
    caret = [extend ? caret[0] : focus, focus];
  }
  const [low, high] = [Math.min(...caret), Math.max(...caret)];
  select(places[low][0], places[high][1]);
}

/**
 * Wire up pointer and keys.
 *
 * `onPoint` gets a statement that the pointer is over, or null; `onChoose` one that is clicked or
 * reached by keyboard; `onSelect` a span that is selected.
 */
export function start({ onPoint, onChoose, onSelect }) {
  const numberOf = (event) => {
    const node = event.target.closest?.(".statement");
    return node ? Number(node.dataset.statement) : null;
  };
  root.addEventListener("pointerover", (event) => {
    const number = numberOf(event);
    if (event.pointerType !== "touch" && number !== null && selected() === null) onPoint(statements[number]);
  });
  root.addEventListener("pointerleave", () => onPoint(null));
  root.addEventListener("click", (event) => {
    const number = numberOf(event);
    if (number === null || selected() !== null) return;
    focusable(number);
    onChoose(statements[number]);
  });
  root.addEventListener("keydown", (event) => {
    const number = numberOf(event);
    if (number === null || event.ctrlKey || event.metaKey || event.altKey) return;
    const last = statements.length - 1;
    const to = { ArrowDown: number + 1, ArrowUp: number - 1, Home: 0, End: last }[event.key];
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (to !== undefined) {
      const next = Math.max(0, Math.min(last, to));
      clear();
      focusable(next);
      nodes()[next].focus();
      onChoose(statements[next]);
    } else if (step !== undefined) {
      moveWord(number, step, event.shiftKey);
    } else if (event.key === "Enter" || event.key === " " || event.key === "Escape") {
      clear();
      onChoose(statements[number]);
    } else return;
    event.preventDefault();
  });
  document.addEventListener("selectionchange", () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      const span = selected();
      if (span !== null) onSelect(span);
    }, SETTLED_MS);
  });

  function clear() {
    caret = null;
    clearTimeout(timer);
    getSelection().removeAllRanges();
  }
}
