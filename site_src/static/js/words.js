/** Full text: what SQLite's FTS5 would find, in its order. Every word must occur as the beginning of a word; ranked by bm25. */
import { load } from "./dom.js";

const K1 = 1.2;
const B = 0.75;

/** The words of a text as the index writes them: lower case, without accents. */
export function split(text) {
  const words = text.normalize("NFC").match(/[\p{L}\p{N}]+/gu) ?? [];
  return words.map((word) => word.toLowerCase().normalize("NFD").replace(/\p{M}/gu, ""));
}

export class Words {
  #index = null;
  #shards = new Map();

  /** Papers with all these words, best first; null if there are no words. */
  async ranked(text) {
    const words = split(text);
    if (!words.length) return null;
    this.#index ??= load("data/text/index.json");
    const { lengths, shards } = await this.#index;
    const phrases = await Promise.all(words.map((word) => this.#occurrences(word, shards)));
    return rank(phrases, lengths);
  }

  /** paper -> weighted number of words that begin so */
  async #occurrences(word, shards) {
    const files = Object.keys(shards).filter((letters) => letters.startsWith(word) || word.startsWith(letters));
    const found = new Map();
    for (const shard of await Promise.all(files.map((letters) => this.#shard(shards[letters])))) {
      for (const [term, [papers, weights]] of Object.entries(shard)) {
        if (term.startsWith(word)) papers.forEach((paper, at) => found.set(paper, (found.get(paper) ?? 0) + weights[at]));
      }
    }
    return found;
  }

  #shard(number) {
    if (!this.#shards.has(number)) this.#shards.set(number, load(`data/text/${number}.json`));
    return this.#shards.get(number);
  }
}

function rank(phrases, lengths) {
  const count = lengths.length;
  const average = lengths.reduce((sum, length) => sum + length, 0) / count;
  const scores = new Map();
  const [first, ...rest] = [...phrases].sort((one, other) => one.size - other.size);
  for (const paper of first.keys()) {
    if (!rest.every((found) => found.has(paper))) continue;
    let score = 0;
    for (const found of phrases) {
      const frequency = found.get(paper);
      const idf = Math.max(Math.log((count - found.size + 0.5) / (found.size + 0.5)), 1e-6);
      score += idf * ((frequency * (K1 + 1)) / (frequency + K1 * (1 - B + (B * lengths[paper]) / average)));
    }
    scores.set(paper, score);
  }
  return [...scores.keys()].sort((one, other) => scores.get(other) - scores.get(one) || one - other);
}
