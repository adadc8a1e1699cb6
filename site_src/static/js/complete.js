/** The search field of every page: names first, slips forgiven; then terms of the taxonomy; then papers by their words. */
import { address, element, load } from "./dom.js";
import { nearest } from "./near.js";
import { Words } from "./words.js";

const words = new Words();
const rows = new Map();
let known = null;
let columns = null;

async function row(paper) {
  columns ??= load("data/atlas.json");
  const { chunk, years } = await columns;
  const number = Math.floor(paper / chunk);
  if (!rows.has(number)) rows.set(number, load(`data/papers/${number}.json`));
  const [key, title, name, , venue] = (await rows.get(number))[paper % chunk];
  return { key, href: `papers/${key}/`, title, name, note: [venue, years[paper]].filter(Boolean).join(" ") };
}

async function suggestions(typed) {
  known ??= load("data/names.json");
  const { papers, terms } = await known;
  const named = nearest(typed, papers, ([name]) => name, 4).map(([, paper]) => paper);
  const meant = nearest(typed, terms, ([title]) => title, 2).map(([title, axis, href]) => ({ href, title, note: axis }));
  const ranked = (await words.ranked(typed)) ?? [];
  const others = ranked.filter((paper) => !named.includes(paper)).slice(0, 5);
  const found = await Promise.all([...named, ...others].map(row));
  return { options: [...found.slice(0, named.length), ...meant, ...found.slice(named.length)], total: ranked.length };
}

export class Complete {
  #input;
  #list;
  #turn = 0;
  #active = -1;
  #choose;

  /** `choose` takes a suggested paper instead of going to its page; only papers are suggested then. */
  constructor(input, choose = null) {
    this.#input = input;
    this.#choose = choose;
    this.#list = element("ul", { class: "complete", role: "listbox", id: `${input.id}-list`, "aria-label": "Suggestions", hidden: true });
    input.after(this.#list);
    for (const [name, value] of Object.entries({ role: "combobox", "aria-autocomplete": "list", "aria-expanded": "false", "aria-controls": this.#list.id })) {
      input.setAttribute(name, value);
    }
    input.addEventListener("input", () => this.#update());
    input.addEventListener("focus", () => input.value && this.#update());
    this.#list.addEventListener("click", (event) => {
      const option = event.target.closest("[data-href]");
      if (option) this.#take(option);
    });
    input.addEventListener("blur", () => setTimeout(() => this.#close(), 150));
    input.addEventListener("keydown", (event) => this.#key(event));
  }

  async #update() {
    const turn = ++this.#turn;
    const typed = this.#input.value.trim();
    if (!typed) return this.#close();
    const { options, total } = await suggestions(typed);
    if (turn !== this.#turn || document.activeElement !== this.#input) return;
    const all = { href: `browse/?text=${encodeURIComponent(typed)}`, title: total ? `All ${total} ${total === 1 ? "paper" : "papers"} with these words` : "Browse all papers", note: "" };
    if (!total) all.href = "browse/";
    this.#active = -1;
    const offered = this.#choose ? options.filter(({ key }) => key) : [...options, all];
    this.#list.replaceChildren(
      ...offered.map(({ key, href, title, name, note }, at) =>
        element(
          "li",
          { role: "option", id: `${this.#list.id}-${at}`, "aria-selected": "false", "data-href": address(href), "data-key": key },
          name ? element("strong", {}, name, " ") : "",
          element("span", {}, title),
          element("small", {}, note),
        ),
      ),
    );
    this.#list.hidden = false;
    this.#input.setAttribute("aria-expanded", "true");
  }

  #take(option) {
    if (!this.#choose) {
      location.href = option.dataset.href;
      return;
    }
    this.#input.value = "";
    this.#close();
    this.#choose({ key: option.dataset.key });
  }

  #close() {
    this.#turn++;
    this.#list.hidden = true;
    this.#active = -1;
    this.#input.setAttribute("aria-expanded", "false");
    this.#input.removeAttribute("aria-activedescendant");
  }

  #key(event) {
    if (this.#list.hidden) return;
    const options = [...this.#list.children];
    if (event.key === "Escape") {
      event.preventDefault();
      this.#close();
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      const step = event.key === "ArrowDown" ? 1 : -1;
      this.#active = (this.#active + step + options.length + (this.#active < 0 && step < 0 ? 1 : 0)) % options.length;
      options.forEach((option, at) => option.setAttribute("aria-selected", String(at === this.#active)));
      options[this.#active].scrollIntoView({ block: "nearest" });
      this.#input.setAttribute("aria-activedescendant", options[this.#active].id);
    } else if (event.key === "Enter" && this.#active >= 0) {
      event.preventDefault();
      this.#take(options[this.#active]);
    }
  }
}
