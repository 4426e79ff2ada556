// What was found out about a span or a source, as a ranked list: scores, bars, measured drops.

import { byId, element } from "./dom.js";
import { shorten } from "./text.js";

const root = byId("findings");
const heading = byId("findings-heading");

const FIRST = 8; // items of a ranking before "Show more"
const MORE = 50;
const QUOTED = 220; // characters of a source in the list

/** A score to three digits of the best one that it stands beside. */
export function number(value, best) {
  const digits = Math.max(0, Math.min(10, 2 - Math.floor(Math.log10(Math.abs(best) || 1))));
  return signed(value, digits);
}

const signed = (value, digits) => value.toFixed(digits).replace(/^-(?=[0.]*$)/, "").replace("-", "−");

const bar = (share, kind) =>
  element("span", { class: `bar-track ${kind}`, "aria-hidden": "true" }, element("span", { "--share": share.toFixed(3) }));

const nats = (drop) => signed(drop, 2);

/** How much less likely a loss of log-probability makes a text, in words. */
function times(drop) {
  if (drop < 0.01) return "no less likely";
  const factor = Math.exp(drop);
  if (factor < 1.1) return "hardly less likely";
  if (factor >= 1e6) return "more than a million times less likely";
  const shown = factor < 10 ? factor.toFixed(1) : Math.round(factor).toLocaleString("en");
  return `${shown} times less likely`;
}

const quote = (text, length = QUOTED) => element("q", { dir: "auto" }, shorten(text, length));

/** A short text instead of a list. */
export function say(title, text, { busy = false } = {}) {
  heading.textContent = title;
  root.setAttribute("aria-busy", String(busy));
  root.replaceChildren(element("p", { class: "hint" }, text));
}

/**
 * The ranking of an attribution.
 *
 * `labels[i]` names document i, or is null; `verification` is the API's or null; `onShow` gets the
 * index of a source to bring into view.
 */
export function ranking(attribution, { labels, verification, onShow, all = false }) {
  heading.textContent = "Sources";
  root.setAttribute("aria-busy", "false");
  const { sources } = attribution;
  const top = Math.max(...sources.map(({ score }) => score), 0) || 1;
  const measured = new Map((verification?.sources ?? []).map((source) => [source.index, source]));
  const most = Math.max(...[...measured.values()].map(({ drop }) => drop), 0) || 1;
  const widened = attribution.attributed_text.trim() !== attribution.text.trim();
  const shown = sources.slice(0, all ? MORE : FIRST);
  root.replaceChildren(
    element(
      "p",
      { class: "subject" },
      "For ",
      quote(attribution.text, 120),
      ...(widened ? [element("span", { class: "hint" }, " measured as ", quote(attribution.attributed_text, 120))] : []),
    ),
    ...(verification ? [summary(verification)] : []),
    element(
      "ol",
      { class: "ranking" },
      ...shown.map((source) => {
        const check = measured.get(source.index);
        const label = labels[source.document];
        return element(
          "li",
          source.cited ? {} : { class: "uncited", title: "Too small a share of all scores to be cited" },
          element(
            "button",
            { type: "button", class: "source", "data-index": source.index, onclick: () => onShow(source.index) },
            element("span", { class: "rank" }, String(source.rank)),
            element(
              "span",
              { class: "quoted", dir: "auto" },
              label ? element("span", { class: "where" }, label, " ") : null,
              shorten(source.text, QUOTED),
            ),
            element("span", { class: "score" }, number(source.score, top)),
            bar(Math.max(0, source.score / top), source.score < 0 ? "negative" : "predicted"),
            check
              ? element(
                  "span",
                  { class: "measured" },
                  element("span", { class: "drop" }, `drop ${nats(check.drop)} nats`),
                  ` without it, ${times(check.drop)}`,
                )
              : null,
            check ? bar(Math.max(0, check.drop / most), "drop-bar") : null,
          ),
        );
      }),
    ),
    ...(!all && sources.length > FIRST
      ? [
          element(
            "button",
            {
              type: "button",
              class: "quiet",
              onclick: () => {
                ranking(attribution, { labels, verification, onShow, all: true });
                root.querySelectorAll(".source")[FIRST].focus();
              },
            },
            `Show ${Math.min(sources.length, MORE) - FIRST} more`,
          ),
        ]
      : []),
  );
}

function summary({ sources, drop_together: together, drop_all: all, cited }) {
  const which = sources.length === 1 ? "this source" : `these ${sources.length} sources`;
  const share = all > 0 ? ` The whole context is worth ${nats(all)}.` : "";
  const alone =
    cited.sources.length && cited.held_share !== null
      ? ` The cited ${cited.sources.length === 1 ? "source alone holds" : `${cited.sources.length} sources alone hold`} ${Math.round(100 * cited.held_share)} % of that.`
      : "";
  return element(
    "p",
    { class: "summary" },
    element("strong", {}, `Verified: drop ${nats(together)} nats. `),
    `The model was run again without ${which}: this text becomes ${times(together)}.${share}${alone}`,
  );
}

/** Statements by how much they used a source: `list` has {statement, score, best, share, rank}. */
export function uses(source, list, onShow) {
  heading.textContent = "Used by";
  root.setAttribute("aria-busy", "false");
  root.replaceChildren(
    element("p", { class: "subject" }, "Source ", quote(source.text, 120)),
    element(
      "ol",
      { class: "ranking" },
      ...list.map(({ statement, score, share, rank, best }) =>
        element(
          "li",
          {},
          element(
            "button",
            { type: "button", class: "source", onclick: () => onShow(statement) },
            element("span", { class: "rank" }, "›"),
            element(
              "span",
              { class: "quoted", dir: "auto" },
              shorten(statement.text, QUOTED),
              element("span", { class: "where" }, rank === null ? " not among its sources" : ` its source number ${rank}`),
            ),
            element("span", { class: "score" }, rank === null ? "–" : number(score, best)),
            bar(share, "predicted"),
          ),
        ),
      ),
    ),
  );
}
