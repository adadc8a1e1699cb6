/** What lists show of papers: [key, title, name, authors, venue, implementation], fetched in chunks and kept. */
import { load } from "./dom.js";

export class Rows {
  #size;
  #chunks = new Map();

  constructor(size) {
    this.#size = size;
  }

  #chunk(number) {
    if (!this.#chunks.has(number)) this.#chunks.set(number, load(`data/papers/${number}.json`));
    return this.#chunks.get(number);
  }

  /** The rows of these papers, in their order. */
  async of(papers) {
    const numbers = papers.map((paper) => Math.floor(paper / this.#size));
    const chunks = new Map();
    for (const number of new Set(numbers)) chunks.set(number, this.#chunk(number));
    for (const [number, chunk] of chunks) chunks.set(number, await chunk);
    return papers.map((paper, at) => chunks.get(numbers[at])[paper % this.#size]);
  }
}
