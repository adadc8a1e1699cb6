/** All papers in columns: which match a selection, and how many each value would give. The meaning is that of `Catalog.facets`. */
import * as bits from "./bits.js";

export class Atlas {
  constructor(columns) {
    this.count = columns.count;
    this.chunk = columns.chunk;
    this.years = columns.years;
    this.byTitle = columns.by_title;
    this.csv = columns.csv;
    this.axes = columns.axes;
    this.everything = bits.all(this.count);
    /** axis -> value -> the papers that carry it */
    this.carriers = {};
    for (const [axis, { values, sets, column }] of Object.entries(columns.axes)) {
      const carriers = values.map(() => bits.none(this.count));
      column.forEach((set, paper) => {
        for (const value of sets[set]) carriers[value][paper >> 5] |= 1 << (paper & 31);
      });
      this.carriers[axis] = Object.fromEntries(values.map((value, at) => [value, carriers[at]]));
    }
  }

  /** axis -> its values */
  get values() {
    return Object.fromEntries(Object.entries(this.axes).map(([axis, { values }]) => [axis, values]));
  }

  /** The values of a paper on an axis. */
  tags(paper, axis) {
    const { values, sets, column } = this.axes[axis];
    return sets[column[paper]].map((value) => values[value]);
  }

  inYears([first, last]) {
    const set = bits.none(this.count);
    this.years.forEach((year, paper) => {
      if (year !== null && year >= first && year <= last) set[paper >> 5] |= 1 << (paper & 31);
    });
    return set;
  }

  /** One set of papers for each thing that is asked: axes by name, `years`, `text`. `ranked` are the papers with the words, or null. */
  filters(selection, ranked) {
    const filters = {};
    for (const [axis, values] of Object.entries(selection.axes)) {
      filters[axis] = values.map((value) => this.carriers[axis][value]).reduce(bits.or);
    }
    if (selection.years) filters.years = this.inYears(selection.years);
    if (ranked) filters.text = bits.of(ranked, this.count);
    return filters;
  }

  /** The papers that pass every filter but one. */
  matching(filters, except = null) {
    let found = this.everything;
    for (const [name, set] of Object.entries(filters)) if (name !== except) found = bits.and(found, set);
    return found;
  }

  /** axis -> value -> papers that match everything but this axis, and carry the value */
  counts(filters) {
    const plain = this.matching(filters);
    const counts = {};
    for (const [axis, carriers] of Object.entries(this.carriers)) {
      const others = axis in filters ? this.matching(filters, axis) : plain;
      counts[axis] = Object.fromEntries(Object.entries(carriers).map(([value, set]) => [value, bits.shared(others, set)]));
    }
    return counts;
  }

  /** year -> papers that match everything but the years */
  byYear(filters) {
    const counts = new Map();
    for (const paper of bits.members(this.matching(filters, "years"))) {
      const year = this.years[paper];
      if (year !== null) counts.set(year, (counts.get(year) ?? 0) + 1);
    }
    return counts;
  }

  /** The papers of a set in the order asked: `relevance`, `newest`, `oldest`, `title`. */
  ordered(set, sort, ranked) {
    if (sort === "relevance" && ranked) return ranked.filter((paper) => bits.has(set, paper));
    if (sort === "title") return this.byTitle.filter((paper) => bits.has(set, paper));
    const papers = bits.members(set);
    if (sort === "oldest") return papers;
    // papers without a year stand last in the catalog, and stay last
    const dated = papers.filter((paper) => this.years[paper] !== null);
    return dated.reverse().concat(papers.filter((paper) => this.years[paper] === null));
  }
}
