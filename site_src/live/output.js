/** What a run says, in the order in which it comes: text, tracebacks, figures, notices. */
import { element } from "/static/js/dom.js";

export class Output {
  #head = element("p", { class: "output-head" });
  #body = element("div", { class: "live-body" });
  #figures = 0;
  #place;

  constructor(after) {
    this.#place = element("section", { class: "output live", "aria-label": "Your run", hidden: true }, this.#head, this.#body);
    after.after(this.#place);
  }

  hide() {
    this.#place.hidden = true;
  }

  clear() {
    this.#body.replaceChildren();
    this.#figures = 0;
    this.#place.classList.remove("failed");
    this.#place.hidden = false;
  }

  head(text, failed = false) {
    this.#head.textContent = text;
    this.#place.classList.toggle("failed", failed);
  }

  notice(text) {
    this.#body.append(element("p", { class: "live-notice" }, text));
  }

  figure(png) {
    const alt = `Figure ${++this.#figures} of your run`;
    this.#body.append(element("img", { src: `data:image/png;base64,${png}`, alt }));
  }

  /** Text of a kind: `stdout`, `stderr` or `traceback`. A carriage return writes over its line, as progress bars want it. */
  text(kind, text) {
    let block = this.#body.lastElementChild;
    if (block?.tagName !== "PRE") {
      block = element("pre", { tabindex: "0", "aria-label": "What your run says" });
      this.#body.append(block);
    }
    let part = block.lastElementChild;
    if (part?.className !== kind) {
      part = element("samp", { class: kind });
      block.append(part);
    }
    const atEnd = block.scrollTop + block.clientHeight >= block.scrollHeight - 4;
    const last = part.lastChild;
    if (last && (text.includes("\r") || last.data.includes("\r"))) last.data = written(last.data + text);
    else part.append(written(text));
    if (atEnd) block.scrollTop = block.scrollHeight;
  }
}

function written(text) {
  return text.replaceAll("\r\n", "\n").replace(/[^\n]*\r(?=[^\n])/g, "");
}
