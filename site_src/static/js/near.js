/** Names that somebody may have meant: exact first, then as a beginning, then with a slip of the finger. */
import { split } from "./words.js";

export const plain = (text) => split(text).join("");

/** How many slips (a letter too many, missing, wrong, or two swapped) lead from one word to the other; `limit + 1` if more than `limit`. */
export function slips(one, other, limit) {
  if (Math.abs(one.length - other.length) > limit) return limit + 1;
  let before = [];
  let last = Array.from({ length: other.length + 1 }, (_, at) => at);
  for (let row = 1; row <= one.length; row++) {
    const next = [row];
    for (let column = 1; column <= other.length; column++) {
      const same = one[row - 1] === other[column - 1];
      next[column] = Math.min(last[column] + 1, next[column - 1] + 1, last[column - 1] + (same ? 0 : 1));
      if (row > 1 && column > 1 && one[row - 1] === other[column - 2] && one[row - 2] === other[column - 1]) {
        next[column] = Math.min(next[column], before[column - 2] + 1);
      }
    }
    if (Math.min(...next) > limit) return limit + 1;
    [before, last] = [last, next];
  }
  return last[other.length];
}

/** How far a name is from what was typed: 0 the same, 1 begins so, 2 and more with slips, Infinity not near. */
export function distance(typed, name) {
  if (!typed) return Infinity;
  if (name === typed) return 0;
  if (name.startsWith(typed)) return 1;
  const limit = typed.length < 4 ? 0 : typed.length < 8 ? 1 : 2;
  if (!limit) return Infinity;
  const found = Math.min(slips(typed, name, limit), slips(typed, name.slice(0, typed.length), limit) + 0.5);
  return found <= limit + 0.5 ? 1 + found : Infinity;
}

/** The nearest of a list, best first. `name` gives the text of an item. */
export function nearest(typed, items, name, most) {
  const wanted = plain(typed);
  return items
    .map((item) => [distance(wanted, plain(name(item))), item])
    .filter(([far]) => far < Infinity)
    .sort((one, other) => one[0] - other[0] || name(one[1]).length - name(other[1]).length)
    .slice(0, most)
    .map(([, item]) => item);
}
