/** A snippet that can be edited: a text field, with the colours painted behind it. Tab leaves the field, as in any form. */
import { element } from "/static/js/dom.js";
import { tokens } from "./python.js";

export class Editor {
  #first;
  #paint;
  #field;

  /** Takes the place of a `pre`; `run` is called on Ctrl+Enter. */
  constructor(pre, run) {
    this.#first = pre.textContent.trimEnd();
    this.#paint = element("code");
    this.#field = element("textarea", {
      "aria-label": "Snippet, editable. Control and Enter run it.",
      "aria-keyshortcuts": "Control+Enter",
      spellcheck: "false",
      autocapitalize: "off",
      autocomplete: "off",
      wrap: "off",
    });
    pre.before(element("div", { class: "editor" }, element("pre", { class: "highlight", "aria-hidden": "true" }, this.#paint), this.#field));
    pre.remove();
    this.#field.addEventListener("input", () => this.#color());
    this.#field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.isComposing) return;
      if (event.ctrlKey || event.metaKey) {
        event.preventDefault();
        run();
      } else if (!event.shiftKey && !event.altKey) {
        event.preventDefault();
        this.#newLine();
      }
    });
    this.reset();
  }

  get code() {
    return this.#field.value;
  }

  /** The snippet as it was. */
  reset() {
    this.#field.value = this.#first;
    this.#color();
  }

  /** A line that begins where the last one does, or deeper after a colon. */
  #newLine() {
    const line = this.code.slice(0, this.#field.selectionStart).split("\n").pop();
    const indent = line.match(/^ */)[0] + (/:\s*(#.*)?$/.test(line) ? "    " : "");
    // the only way to insert that can be undone
    document.execCommand("insertText", false, `\n${indent}`);
  }

  #color() {
    // without something in its last line, the paint would be one line short
    this.#paint.replaceChildren(...tokens(this.code).map(([kind, text]) => (kind ? element("span", { class: kind }, text) : text)), "\n");
  }
}
