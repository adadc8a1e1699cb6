/** Sets of papers as bitmasks: paper p is bit p % 32 of word p / 32. */

export function none(count) {
  return new Uint32Array(Math.ceil(count / 32));
}

export function all(count) {
  const set = none(count).fill(0xffffffff);
  if (count % 32) set[set.length - 1] = (1 << (count % 32)) - 1;
  return set;
}

export function of(papers, count) {
  const set = none(count);
  for (const paper of papers) set[paper >> 5] |= 1 << (paper & 31);
  return set;
}

export function has(set, paper) {
  return (set[paper >> 5] >>> (paper & 31)) & 1;
}

export function and(one, other) {
  return one.map((word, at) => word & other[at]);
}

export function or(one, other) {
  return one.map((word, at) => word | other[at]);
}

function ones(word) {
  word -= (word >>> 1) & 0x55555555;
  word = (word & 0x33333333) + ((word >>> 2) & 0x33333333);
  return (((word + (word >>> 4)) & 0x0f0f0f0f) * 0x01010101) >>> 24;
}

export function size(set) {
  let total = 0;
  for (const word of set) total += ones(word);
  return total;
}

export function shared(one, other) {
  let total = 0;
  for (let at = 0; at < one.length; at++) total += ones(one[at] & other[at]);
  return total;
}

/** The papers of a set, in their order. */
export function members(set) {
  const found = [];
  for (let at = 0; at < set.length; at++) {
    for (let word = set[at]; word; word &= word - 1) found.push(at * 32 + 31 - Math.clz32(word & -word));
  }
  return found;
}
