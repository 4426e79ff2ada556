// Text and its offsets. The API counts Unicode code points, JavaScript UTF-16 code units: they are
// converted here and nowhere else.

/** A string whose places are known in both countings. */
export class Text {
  #pairs = []; // code-point offset of each character that takes two units

  constructor(string) {
    this.string = string;
    let point = 0;
    for (let unit = 0; unit < string.length; unit++, point++) {
      if (string.codePointAt(unit) > 0xffff) {
        this.#pairs.push(point);
        unit++;
      }
    }
    this.length = point; // in code points
  }

  /** UTF-16 offset of a code-point offset. */
  unit(point) {
    return point + countBelow(this.#pairs, point, (pair) => pair);
  }

  /** Code-point offset of a UTF-16 offset; one inside a character counts as its start. */
  point(unit) {
    // Pair number k starts at the unit pairs[k] + k; each that has started is one unit too many.
    return unit - countBelow(this.#pairs, unit, (pair, k) => pair + k);
  }

  /** Code-point range that covers a UTF-16 range, whole characters on both sides. */
  cover(start, end) {
    const last = this.point(end);
    return [this.point(start), this.unit(last) < end ? last + 1 : last];
  }

  /** The characters between two code-point offsets. */
  slice(start, end) {
    return this.string.slice(this.unit(start), this.unit(end));
  }
}

/** How many items of a sorted list have a value below a limit. */
function countBelow(items, limit, value) {
  let low = 0;
  let high = items.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (value(items[middle], middle) < limit) low = middle + 1;
    else high = middle;
  }
  return low;
}

const BLOCK = 1200; // UTF-16 units: a screenful or so, which is what one change of marks costs

/** Cut a string after line breaks into blocks `[start, end)` of some size, in UTF-16 units. */
export function blocks(string) {
  const found = [];
  let start = 0;
  while (start < string.length) {
    const newline = string.indexOf("\n", Math.min(start + BLOCK, string.length));
    const end = newline < 0 ? string.length : newline + 1;
    found.push([start, end]);
    start = end;
  }
  return found;
}

/** Words of a string as UTF-16 ranges; in scripts without spaces, too. */
export function words(string) {
  const segmenter = new Intl.Segmenter(undefined, { granularity: "word" });
  return [...segmenter.segment(string)]
    .filter((segment) => segment.isWordLike)
    .map(({ index, segment }) => [index, index + segment.length]);
}

/** The beginning of a string, on one line, whole characters only. */
export function shorten(string, length) {
  const line = string.slice(0, 4 * length).replace(/\s+/gu, " ").trim();
  const points = [...line];
  return points.length > length ? `${points.slice(0, length - 1).join("")}…` : line;
}
