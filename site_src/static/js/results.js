/** The list of papers found: rows come in chunks, and only what is shown is fetched. */
import { address, drawing, element, load } from "./dom.js";

const STEP = 50;
const STATUS = { implements: "implemented", variant: "variant of an implementation", subject: "about an implementation", nearest: "not implemented yet" };
const ORDER = Object.keys(STATUS);
const SHOWN = ["speedup", "when", "how"];

export class Results {
  #atlas;
  #titles;
  #list;
  #more;
  #chunks = new Map();
  #turn = 0;
  papers = [];

  constructor(atlas, titles, list, more) {
    this.#atlas = atlas;
    this.#titles = titles;
    this.#list = list;
    this.#more = more;
    more.querySelector("button").addEventListener("click", () => this.#append());
  }

  /** Show the first papers of the list. */
  async show(papers) {
    const turn = ++this.#turn;
    this.papers = papers;
    const rows = await this.#rows(papers.slice(0, STEP));
    if (turn !== this.#turn) return;
    this.#list.replaceChildren(...rows);
    this.#showMore();
  }

  async #append() {
    const turn = this.#turn;
    const shown = this.#list.children.length;
    const rows = await this.#rows(this.papers.slice(shown, shown + STEP));
    if (turn !== this.#turn) return;
    this.#list.append(...rows);
    rows[0]?.querySelector("a").focus();
    this.#showMore();
  }

  #showMore() {
    const left = this.papers.length - this.#list.children.length;
    this.#more.hidden = left <= 0;
    this.#more.querySelector("button").textContent = `Show ${Math.min(STEP, left)} more of ${left.toLocaleString("en")}`;
  }

  async #rows(papers) {
    const { chunk } = this.#atlas;
    for (const number of new Set(papers.map((paper) => Math.floor(paper / chunk)))) {
      if (!this.#chunks.has(number)) this.#chunks.set(number, load(`data/papers/${number}.json`));
    }
    const rows = [];
    for (const paper of papers) rows.push(this.#row(paper, (await this.#chunks.get(Math.floor(paper / chunk)))[paper % chunk]));
    return rows;
  }

  #row(paper, [key, title, name, authors, venue, implementation]) {
    const heading = element("p", { class: "paper-line-title" }, element("a", { href: address(`papers/${key}/`) }, title));
    if (name) heading.append(" ", element("span", { class: "name" }, name));
    const year = this.#atlas.years[paper] ?? "year unknown";
    const facts = element("p", { class: "paper-line-facts" }, `${people(authors)} · ${venue ? `${venue} ` : ""}${year}`);
    const relation = ORDER.find((wanted) => this.#atlas.tags(paper, "relation").includes(wanted));
    if (relation) {
      const status = element("span", { class: "status" }, mark(relation), STATUS[relation]);
      facts.append(" · ", relation === "implements" ? element("a", { class: "status", href: address(`implementations/${implementation}/`) }, ...status.childNodes) : status);
    }
    const tags = SHOWN.flatMap((axis) => this.#atlas.tags(paper, axis).map((value) => element("li", {}, this.#titles[axis][value])));
    return element("li", { class: "paper-line", "data-key": key }, heading, facts, element("ul", { class: "paper-line-tags" }, ...tags));
  }
}

function people(authors) {
  if (!authors.length) return "Authors unknown";
  return authors.length > 4 ? `${authors.slice(0, 3).join(", ")} and ${authors.length - 3} more` : authors.join(", ");
}

function mark(relation) {
  const full = {
    implements: ["circle", { cx: 6, cy: 6, r: 4.75 }],
    variant: ["path", { d: "M6 1.25a4.75 4.75 0 0 1 0 9.5z" }],
    subject: ["circle", { cx: 6, cy: 6, r: 2 }],
  }[relation];
  const parts = [drawing("circle", { cx: 6, cy: 6, r: 4.75 })];
  if (full) parts.push(drawing(full[0], { ...full[1], class: "full" }));
  return drawing("svg", { class: `relation-mark relation-${relation}`, viewBox: "0 0 12 12", width: 12, height: 12, "aria-hidden": "true" }, ...parts);
}
