/** The papers found, as a list or a table: only what is shown is fetched. */
import { toggle } from "./chosen.js";
import { address, drawing, element } from "./dom.js";

const STEP = 50;
const STATUS = { implements: "implemented", variant: "variant of an implementation", subject: "about an implementation", nearest: "not implemented yet" };
export const ORDER = Object.keys(STATUS);
const SHOWN = ["speedup", "when", "how"];

export class Results {
  #atlas;
  #titles;
  #rows;
  #list;
  #more;
  #turn = 0;
  #table = false;
  papers = [];

  constructor(atlas, titles, rows, list, more) {
    this.#atlas = atlas;
    this.#titles = titles;
    this.#rows = rows;
    this.#list = list;
    this.#more = more;
    more.querySelector("button").addEventListener("click", () => this.#append());
  }

  /** Show the first papers, as a list or as a table. */
  async show(papers, table) {
    const turn = ++this.#turn;
    this.papers = papers;
    const made = await this.#made(papers.slice(0, STEP), table);
    if (turn !== this.#turn) return;
    this.#table = table;
    if (table) this.#list.replaceChildren(element("table", {}, this.#head(), element("tbody", {}, ...made)));
    else this.#list.replaceChildren(element("ol", { class: "paper-lines" }, ...made));
    this.#showMore();
  }

  /** Show nothing: another view is on. */
  hide(papers) {
    this.#turn++;
    this.papers = papers;
    this.#list.replaceChildren();
    this.#more.hidden = true;
  }

  get #holder() {
    return this.#list.querySelector("ol, tbody");
  }

  async #append() {
    const turn = this.#turn;
    const shown = this.#holder.children.length;
    const made = await this.#made(this.papers.slice(shown, shown + STEP), this.#table);
    // a second click may have been quicker
    if (turn !== this.#turn || shown !== this.#holder.children.length) return;
    this.#holder.append(...made);
    made[0]?.querySelector("a").focus();
    this.#showMore();
  }

  #showMore() {
    const left = this.papers.length - this.#holder.children.length;
    this.#more.hidden = left <= 0;
    this.#more.querySelector("button").textContent = `Show ${Math.min(STEP, left)} more of ${left.toLocaleString("en")}`;
  }

  async #made(papers, table) {
    const rows = await this.#rows.of(papers);
    return rows.map((row, at) => (table ? this.#cells(papers[at], row) : this.#row(papers[at], row)));
  }

  #head() {
    const columns = ["Paper", "Year", "Venue", ...SHOWN.map((axis) => this.#titles[axis][""]), "Implementation"];
    return element("thead", {}, element("tr", {}, ...columns.map((column) => element("th", { scope: "col" }, column))));
  }

  #cells(paper, [key, title, name, , venue, implementation]) {
    const relation = this.#relation(paper);
    const heading = element("th", { scope: "row" }, element("a", { href: address(`papers/${key}/`) }, name ?? title), name ? element("small", {}, title) : "");
    const tags = SHOWN.map((axis) => element("td", {}, this.#atlas.tags(paper, axis).map((value) => this.#titles[axis][value]).join(", ")));
    const module = relation ? element("td", {}, mark(relation), " ", element("a", { href: address(`implementations/${implementation}/`) }, ...breakable(implementation))) : element("td");
    return element("tr", { "data-key": key }, heading, element("td", {}, this.#atlas.years[paper] ?? ""), element("td", {}, venue ?? ""), ...tags, module);
  }

  #relation(paper) {
    return ORDER.find((wanted) => this.#atlas.tags(paper, "relation").includes(wanted));
  }

  #row(paper, [key, title, name, authors, venue, implementation]) {
    const heading = element("p", { class: "paper-line-title" }, element("a", { href: address(`papers/${key}/`) }, title));
    if (name) heading.append(" ", element("span", { class: "name" }, name));
    const year = this.#atlas.years[paper] ?? "year unknown";
    const facts = element("p", { class: "paper-line-facts" }, `${people(authors)} · ${venue ? `${venue} ` : ""}${year}`);
    const relation = this.#relation(paper);
    if (relation) {
      const status = element("span", { class: "status" }, mark(relation), STATUS[relation]);
      facts.append(" · ", relation === "implements" ? element("a", { class: "status", href: address(`implementations/${implementation}/`) }, ...status.childNodes) : status);
    }
    const tags = SHOWN.flatMap((axis) => this.#atlas.tags(paper, axis).map((value) => element("li", {}, this.#titles[axis][value])));
    const line = element("li", { class: "paper-line", "data-key": key }, heading, facts, element("ul", { class: "paper-line-tags" }, ...tags));
    line.append(toggle(key, name ?? title));
    return line;
  }
}

/** `folder.module`, which may break after the dot. */
function breakable(module) {
  const [folder, name] = module.split(".");
  return [`${folder}.`, element("wbr"), name];
}

function people(authors) {
  if (!authors.length) return "Authors unknown";
  return authors.length > 4 ? `${authors.slice(0, 3).join(", ")} and ${authors.length - 3} more` : authors.join(", ");
}

/** The sign of a relation. */
export function mark(relation) {
  const full = {
    implements: ["circle", { cx: 6, cy: 6, r: 4.75 }],
    variant: ["path", { d: "M6 1.25a4.75 4.75 0 0 1 0 9.5z" }],
    subject: ["circle", { cx: 6, cy: 6, r: 2 }],
  }[relation];
  const parts = [drawing("circle", { cx: 6, cy: 6, r: 4.75 })];
  if (full) parts.push(drawing(full[0], { ...full[1], class: "full" }));
  return drawing("svg", { class: `relation-mark relation-${relation}`, viewBox: "0 0 12 12", width: 12, height: 12, "aria-hidden": "true" }, ...parts);
}
