// Sources × statements: how much each statement used each source.

import { byId, element } from "./dom.js";
import { number } from "./findings.js";
import { shorten } from "./text.js";

const MOST = 30; // sources shown: the best of every statement
const QUOTED = 90;

/** Draw it. `onStatement` gets a statement, `onSource` the index of a source. */
export function show(attributions, { onStatement, onSource }) {
  const best = new Map(); // index → {source, rank}: its best rank in any statement
  for (const { sources } of attributions)
    for (const source of sources)
      if (!(best.get(source.index)?.rank <= source.rank)) best.set(source.index, source);
  const chosen = [...best.values()].sort((a, b) => a.rank - b.rank || a.index - b.index).slice(0, MOST);
  chosen.sort((a, b) => a.index - b.index);
  byId("matrix-hint").textContent =
    `Columns are statements, rows are sources in the order of the context` +
    (chosen.length < best.size ? `: the best ${chosen.length} of those found.` : ".");
  const scores = attributions.map(({ sources }) => new Map(sources.map((s) => [s.index, s.score])));
  const tops = attributions.map(({ sources }) => Math.max(...sources.map((s) => s.score), 0) || 1);
  byId("matrix").replaceChildren(
    element(
      "table",
      {},
      element(
        "thead",
        {},
        element(
          "tr",
          {},
          element("th", { scope: "col" }, "Source"),
          ...attributions.map((statement) =>
            element(
              "th",
              { scope: "col" },
              element(
                "button",
                { type: "button", class: "quiet", dir: "auto", onclick: () => onStatement(statement), title: shorten(statement.text, 300) },
                shorten(statement.text, 48),
              ),
            ),
          ),
        ),
      ),
      element(
        "tbody",
        {},
        ...chosen.map((source) =>
          element(
            "tr",
            {},
            element(
              "th",
              { scope: "row" },
              element("button", { type: "button", class: "quiet", dir: "auto", onclick: () => onSource(source.index) }, shorten(source.text, QUOTED)),
            ),
            ...scores.map((of, column) => {
              const score = of.get(source.index);
              const share = score === undefined ? 0 : Math.max(0, score / tops[column]);
              return element("td", { "--share": share.toFixed(3) }, score === undefined ? "–" : number(score, tops[column]));
            }),
          ),
        ),
      ),
    ),
  );
}
