// The context while it is read: documents as text, of which the sources that matter are marked.
//
// A document stands in blocks of some lines, and a change of marks rebuilds only the blocks that it
// touches, so that a context of thousands of lines costs no more than a short one.

import { byId, element } from "./dom.js";
import { blocks, Text } from "./text.js";

const root = byId("context");

let documents = []; // of {text: Text, blocks: [{start, end, node, marked}]}
let sources = []; // by document and start; with unitStart and unitEnd
let byIndex = new Map(); // index → place in sources
let shares = new Map(); // index → strength from 0 to 1
let current = null; // index where the keyboard is
let chosen = null; // index whose statements are shown

/** Show documents `{title, text}`, with nothing marked. */
export function show(list) {
  [sources, byIndex, shares, current, chosen] = [[], new Map(), new Map(), null, null];
  documents = list.map(({ text }) => ({
    text: new Text(text),
    blocks: blocks(text).map(([start, end]) => ({
      start,
      end,
      marked: false,
      node: element("div", { class: "block", dir: "auto" }, text.slice(start, end)),
    })),
  }));
  root.replaceChildren(
    ...documents.map(({ blocks: parts }, place) =>
      element(
        "article",
        { "data-document": place },
        list.length > 1 || list[place].title
          ? element("h3", { dir: "auto" }, list[place].title || `Document ${place + 1}`)
          : null,
        element("div", { class: "text" }, ...parts.map(({ node }) => node)),
      ),
    ),
  );
}

/** Say what the documents are cut into. */
export function setSources(list) {
  sources = list
    .filter((source) => source.document < documents.length)
    .map((source) => {
      const { text } = documents[source.document];
      return { ...source, unitStart: text.unit(source.start), unitEnd: text.unit(source.end) };
    })
    .sort((a, b) => a.document - b.document || a.start - b.start);
  byIndex = new Map(sources.map((source, place) => [source.index, place]));
  [shares, current, chosen] = [new Map(), null, null];
  paint();
}

/** Mark sources by strength: a map from index to a share from 0 to 1. */
export function light(strengths, { keep = null } = {}) {
  shares = strengths;
  chosen = keep;
  paint();
}

/** Bring a source into view. */
export function reveal(index) {
  current = index;
  paint();
  const mark = root.querySelector(`[data-source="${index}"]`);
  if (!mark) return;
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  mark.scrollIntoView({ block: "center", behavior: still ? "auto" : "smooth" });
  mark.focus({ preventScroll: true });
}

function paint() {
  const wanted = new Map(); // block → pieces
  const indices = new Set([...shares.keys(), current, chosen].filter((index) => byIndex.has(index)));
  for (const index of indices) {
    const source = sources[byIndex.get(index)];
    for (const block of documents[source.document].blocks) {
      if (block.start >= source.unitEnd) break;
      if (block.end <= source.unitStart) continue;
      if (!wanted.has(block)) wanted.set(block, []);
      wanted.get(block).push(source);
    }
  }
  for (const { text, blocks: parts } of documents)
    for (const block of parts) {
      const marks = wanted.get(block);
      if (!marks && !block.marked) continue;
      block.marked = Boolean(marks);
      block.node.replaceChildren(...pieces(text.string, block, marks ?? []));
    }
}

function pieces(string, block, marks) {
  marks.sort((a, b) => a.unitStart - b.unitStart);
  const made = [];
  let place = block.start;
  for (const source of marks) {
    const start = Math.max(source.unitStart, place);
    const end = Math.min(source.unitEnd, block.end);
    if (end <= start) continue;
    if (start > place) made.push(string.slice(place, start));
    const share = shares.get(source.index) ?? 0;
    made.push(
      element(
        "mark",
        {
          "data-source": source.index,
          "--share": share.toFixed(3),
          class: source.index === chosen ? "chosen" : null,
          role: "button",
          tabindex: "-1",
          "aria-pressed": String(source.index === chosen),
        },
        string.slice(start, end),
      ),
    );
    place = end;
  }
  if (place < block.end) made.push(string.slice(place, block.end));
  return made;
}

/** The source at a place of a document, in UTF-16 units, or the nearest before it. */
function sourceAt(document, unit) {
  let found = null;
  for (let low = 0, high = sources.length - 1; low <= high; ) {
    const middle = (low + high) >> 1;
    const source = sources[middle];
    const before = source.document - document || source.unitStart - unit;
    if (before <= 0) {
      found = source;
      low = middle + 1;
    } else high = middle - 1;
  }
  return found?.document === document ? found : null;
}

function placeOf(event) {
  const mark = event.target.closest("[data-source]");
  if (mark) return sources[byIndex.get(Number(mark.dataset.source))];
  let node, offset;
  if (document.caretPositionFromPoint) {
    const caret = document.caretPositionFromPoint(event.clientX, event.clientY);
    [node, offset] = [caret?.offsetNode, caret?.offset];
  } else {
    const range = document.caretRangeFromPoint?.(event.clientX, event.clientY);
    [node, offset] = [range?.startContainer, range?.startOffset];
  }
  const place = node && documents.findIndex(({ blocks: parts }) => parts.some((b) => b.node.contains(node)));
  if (!node || place < 0) return null;
  const block = documents[place].blocks.find((part) => part.node.contains(node));
  const range = new Range();
  range.setStart(block.node, 0);
  range.setEnd(node, offset);
  return sourceAt(place, block.start + range.toString().length);
}

/** Wire up clicks and keys; `onChoose` gets the index of a source. */
export function start(onChoose) {
  root.addEventListener("click", (event) => {
    if (!getSelection().isCollapsed) return; // somebody is copying text
    const source = placeOf(event);
    if (source) choose(source.index);
  });
  root.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
    if (step && sources.length && !event.ctrlKey && !event.metaKey && !event.altKey && !event.shiftKey) {
      event.preventDefault();
      const from = current === null ? (step > 0 ? -1 : 0) : byIndex.get(current);
      reveal(sources[(from + step + sources.length) % sources.length].index);
    } else if ((event.key === "Enter" || event.key === " ") && current !== null) {
      event.preventDefault();
      choose(current);
    }
  });

  function choose(index) {
    current = index;
    const focused = root.contains(document.activeElement);
    onChoose(index);
    if (focused) root.querySelector(`[data-source="${index}"]`)?.focus({ preventScroll: true });
  }
}
