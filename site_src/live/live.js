/** Run the snippets of a page on this machine. The local server puts this script into the pages it serves; the built site has none of it. */
import { announce, element } from "/static/js/dom.js";
import { Editor } from "./editor.js";
import { Output } from "./output.js";

const TOKEN = document.querySelector("meta[name=atlas-token]").content;
const LOOK = 2500;
const STOPPED = "The server has stopped. Start it again with pruning-atlas serve, then reload this page.";
const ANEW = "The server was started anew. Reload this page to run the snippet.";
const OUTCOMES = {
  finished: (time) => `Finished after ${time}`,
  failed: (time) => `Failed after ${time}`,
  stopped: (time) => `Stopped after ${time}`,
  limit: (time) => `Stopped at the time limit after ${time}`,
  reset: () => "The kernel was started anew",
  died: () => "The kernel ended unexpectedly; a new one starts",
};

function ask(action, what = {}) {
  return fetch(`/-/${action}`, { method: "POST", headers: { "Content-Type": "application/json", "X-Atlas-Token": TOKEN }, body: JSON.stringify(what) });
}

class Runner {
  #editor;
  #output;
  #status = element("p", { class: "live-status" });
  #run = this.#button("Run", "live-run", () => this.#start());
  #stop = this.#button("Stop", "quiet", () => this.#end());
  #reset = this.#button("Reset", "quiet", () => this.#again());
  /** The name of the run that is on, or null. */
  #name = null;
  #gone = "";

  constructor(place) {
    const block = place.querySelector(".code-block");
    this.#editor = new Editor(block.querySelector("pre"), () => this.#start());
    block.append(element("div", { class: "live-bar" }, this.#run, this.#stop, this.#reset, this.#status));
    this.#output = new Output(block);
    place.dataset.live = "";
    this.#show();
  }

  /** What the server says of itself: `starting`, `ready`, `busy`, or why it does not answer. */
  server(kernel, gone = "") {
    if (gone !== this.#gone) {
      this.#gone = gone;
      this.#show();
    }
    if (!gone && !this.#name && !this.#status.dataset.outcome) this.#say(kernel === "starting" ? "PyTorch is loading" : "");
  }

  #button(label, kind, act) {
    const button = element("button", { type: "button", class: kind }, label);
    // not `disabled`: a button that has the focus must not lose it
    button.addEventListener("click", () => button.getAttribute("aria-disabled") !== "true" && act());
    return button;
  }

  #say(text, outcome = "") {
    if (this.#status.textContent !== text) this.#status.textContent = text;
    if (outcome) this.#status.dataset.outcome = outcome;
    else delete this.#status.dataset.outcome;
  }

  #show() {
    const running = this.#name !== null;
    this.#run.setAttribute("aria-disabled", String(running || Boolean(this.#gone)));
    this.#stop.setAttribute("aria-disabled", String(!running || Boolean(this.#gone)));
    this.#reset.setAttribute("aria-disabled", String(Boolean(this.#gone)));
    if (this.#gone) this.#say(this.#gone, "gone");
    else if (this.#status.dataset.outcome === "gone") this.#say("");
  }

  async #start() {
    if (this.#name !== null || this.#gone) return;
    const name = (this.#name = crypto.randomUUID());
    this.#output.clear();
    this.#output.head("Your run");
    this.#say("Starting");
    this.#show();
    try {
      const response = await ask("run", { run: name, code: this.#editor.code });
      if (!response.ok) await refused(response);
      else await this.#follow(response);
    } catch {
      this.#output.head("Your run: the connection broke", true);
      gone(STOPPED);
    } finally {
      this.#name = null;
      this.#show();
    }
  }

  /** Show the events of a run as they come. */
  async #follow(response) {
    let rest = "";
    let done = false;
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      const lines = (rest + part.value).split("\n");
      rest = lines.pop();
      for (const line of lines) done = this.#event(JSON.parse(line)) || done;
    }
    if (!done) throw new Error("The stream ended before the run.");
  }

  /** Show an event; whether it is the last. */
  #event({ kind, text, stream, png, seconds, outcome }) {
    if (kind === "waiting") this.#say("Waiting for the kernel");
    else if (kind === "started") this.#say("Running");
    else if (kind === "text") this.#output.text(stream, text);
    else if (kind === "error") this.#output.text("traceback", text);
    else if (kind === "figure") this.#output.figure(png);
    else if (kind === "notice") this.#output.notice(text);
    else if (kind === "beat") this.#say(`Running, ${Math.round(seconds)} s`);
    else if (kind === "done") {
      const time = `${seconds.toFixed(1)} s`;
      const said = OUTCOMES[outcome](time);
      this.#output.head(`Your run, ${time}`, outcome !== "finished");
      this.#say(said, outcome);
      announce(said);
    }
    return kind === "done";
  }

  #end() {
    if (this.#name === null) return;
    this.#say("Stopping");
    tell("stop", { run: this.#name });
  }

  #again() {
    this.#editor.reset();
    this.#output.hide();
    this.#say("The snippet is as it was, and the kernel starts anew", "reset");
    announce("Reset");
    tell("reset");
  }
}

const runners = [...document.querySelectorAll(".runner[data-module]")].map((place) => new Runner(place));

function tellAll(kernel, gone = "") {
  for (const runner of runners) runner.server(kernel, gone);
}

let known = "";

function gone(why) {
  tellAll("", why);
  if (why !== known) announce(why);
  known = why;
}

async function refused(response) {
  if (response.status === 403) gone(ANEW);
  else throw new Error((await response.json()).problem);
}

/** Ask for something short; whoever cannot be reached has stopped. */
async function tell(action, what) {
  try {
    const response = await ask(action, what);
    if (response.ok) {
      known = "";
      tellAll((await response.json()).kernel);
    } else await refused(response);
  } catch {
    gone(STOPPED);
  }
}

function look() {
  if (document.visibilityState === "visible") tell("state");
}
look();
setInterval(look, LOOK);
document.addEventListener("visibilitychange", look);
