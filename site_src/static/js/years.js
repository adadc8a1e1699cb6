/** The histogram of years: drag over it, or type the first and last year. */

export class Years {
  #holder;
  #picture;
  #bars;
  #first;
  #last;
  #span;

  constructor(holder, ask) {
    this.#holder = holder;
    this.#picture = holder.querySelector("[data-years]");
    this.#bars = [...holder.querySelectorAll("[data-year]")];
    this.#first = holder.querySelector("#year-first");
    this.#last = holder.querySelector("#year-last");
    this.#span = [Number(holder.dataset.first), Number(holder.dataset.last)];
    for (const field of [this.#first, this.#last]) field.addEventListener("change", () => ask(this.#typed()));
    this.#drag(ask);
  }

  /** Draw the counts of the other filters, and mark the chosen range. */
  show(counts, range) {
    const fullest = Math.max(1, ...counts.values());
    for (const bar of this.#bars) {
      const count = counts.get(Number(bar.dataset.year)) ?? 0;
      const height = count ? Math.max(2, (62 * count) / fullest) : 0;
      bar.setAttribute("height", height);
      bar.setAttribute("y", 64 - height);
    }
    this.#mark(range);
    this.#first.value = range ? range[0] : "";
    this.#last.value = range ? range[1] : "";
  }

  #mark(range) {
    for (const bar of this.#bars) {
      const year = Number(bar.dataset.year);
      bar.classList.toggle("outside", Boolean(range) && (year < range[0] || year > range[1]));
    }
  }

  #typed() {
    const first = this.#first.value ? Number(this.#first.value) : this.#span[0];
    const last = this.#last.value ? Number(this.#last.value) : this.#span[1];
    return this.#first.value || this.#last.value ? [Math.min(first, last), Math.max(first, last)] : null;
  }

  #drag(ask) {
    let start = null;
    const yearAt = (event) => {
      const box = this.#picture.getBoundingClientRect();
      const share = Math.min(0.9999, Math.max(0, (event.clientX - box.left) / box.width));
      return this.#span[0] + Math.floor(share * (this.#span[1] - this.#span[0] + 1));
    };
    const range = (event) => {
      const years = [start, yearAt(event)];
      return [Math.min(...years), Math.max(...years)];
    };
    this.#picture.addEventListener("pointerdown", (event) => {
      start = yearAt(event);
      this.#picture.setPointerCapture(event.pointerId);
      this.#mark(range(event));
    });
    this.#picture.addEventListener("pointermove", (event) => {
      if (start !== null) this.#mark(range(event));
    });
    this.#picture.addEventListener("pointerup", (event) => {
      if (start === null) return;
      const chosen = range(event);
      start = null;
      ask(chosen[0] === this.#span[0] && chosen[1] === this.#span[1] ? null : chosen);
    });
    this.#picture.addEventListener("pointercancel", () => (start = null));
  }
}
