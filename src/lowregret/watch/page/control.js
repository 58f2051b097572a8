// What the page may ask of a run, once the token is there.

import { byId, el, setText } from "./format.js";
import { groupsOf, stateOf, store } from "./store.js";
import { ask, hasToken, setToken } from "./stream.js";

const SURE_MS = 4000;

export class Control {
  constructor(changed) {
    this.changed = changed;
    this.run = null;
    this.waiting = null;
    byId("unlock").addEventListener("click", () => this.locked() ? this.askToken() : this.lock());
    byId("t-cancel").addEventListener("click", () => byId("token").close());
    byId("n-cancel").addEventListener("click", () => byId("new").close());
    byId("t-form").addEventListener("submit", (event) => this.unlock(event));
    byId("n-form").addEventListener("submit", (event) => this.add(event));
    byId("pause").addEventListener("click", () => this.send({ what: this.paused ? "resume" : "pause" }));
    byId("seed").addEventListener("click", () => this.send({ what: "seed", group: this.run.groups[0] }));
    byId("add").addEventListener("click", () => this.fill(this.run.groups[0]));
  }

  locked() {
    return !hasToken();
  }

  get paused() {
    return stateOf(this.run) === "paused";
  }

  // What can be asked of this run now.
  show(run) {
    this.run = run;
    const unlock = byId("unlock");
    unlock.hidden = !store.control;
    setText(unlock, this.locked() ? "Unlock control" : "Lock control");
    const state = stateOf(run);
    const living = state === "training" || state === "paused";
    byId("actions").hidden = !store.control || this.locked() || !living;
    setText(byId("pause"), state === "paused" ? "Go on" : "Pause");
    byId("seed").hidden = run.kind !== "compare";
    byId("add").hidden = run.kind === "train";
  }

  askToken() {
    byId("token").showModal();
    byId("t-token").focus();
    return new Promise((done) => {
      this.waiting = done;
    });
  }

  lock() {
    setToken("");
    this.changed();
  }

  unlock(event) {
    event.preventDefault();
    setToken(byId("t-token").value.trim());
    byId("t-token").value = "";
    byId("token").close();
    this.waiting?.();
    this.changed();
  }

  async send(body, where = byId("said")) {
    setText(where, "…");
    try {
      setText(where, await ask({ run: this.run.number, ...body }));
      return true;
    } catch (error) {
      setText(where, error.message);
      if (error.status === 401) this.lock();
      return false;
    }
  }

  // The buttons of an open trial.
  ofTrial({ group, id }, trial) {
    const node = byId("d-actions");
    const state = stateOf(this.run);
    if (!store.control || this.locked() || (state !== "training" && state !== "paused") || this.run.kind === "train") {
      node.replaceChildren();
      return;
    }
    if (node.dataset.of === `${group} ${id} ${trial.status}` && node.childElementCount) return;
    node.dataset.of = `${group} ${id} ${trial.status}`;
    const clone = el("button", { type: "button", onclick: () => this.fill(group, trial) }, "Clone with changes");
    node.replaceChildren(...(trial.status === "running" ? [this.stopButton(group, id)] : []), clone);
  }

  stopButton(group, id) {
    const button = el("button", { type: "button" }, "Stop this trial");
    let sure = 0;
    button.addEventListener("click", () => {
      if (Date.now() < sure) {
        this.send({ what: "stop", group, trial: id }, byId("d-said"));
        return;
      }
      sure = Date.now() + SURE_MS;
      setText(button, "Really stop it? It will count for nothing");
      setTimeout(() => setText(button, "Stop this trial"), SURE_MS);
    });
    return button;
  }

  fill(group, trial) {
    const groups = groupsOf(this.run);
    byId("n-group").replaceChildren(...groups.map(({ head }) => el("option", { value: head.number }, head.key || this.run.name)));
    byId("n-group").value = String(group);
    byId("n-group").parentElement.hidden = groups.length < 2;
    byId("n-method").value = trial?.method ?? groups[0].head.methods[0]?.name ?? "";
    byId("n-rate").value = trial ? String(trial.lr) : ""; // every digit: a seed more is of the same rate
    byId("n-seed").value = String(trial?.seed ?? 0);
    setText(byId("n-said"), "");
    byId("new").showModal();
    byId("n-rate").focus();
  }

  async add(event) {
    event.preventDefault();
    const learning_rate = Number(byId("n-rate").value);
    if (!(learning_rate > 0)) {
      setText(byId("n-said"), "The learning rate is no number above 0, such as 2e-4.");
      return;
    }
    const body = { what: "trial", group: Number(byId("n-group").value), method: byId("n-method").value.trim(), learning_rate, seed: Number(byId("n-seed").value) };
    if (await this.send(body, byId("n-said"))) {
      setText(byId("said"), byId("n-said").textContent);
      byId("new").close();
    }
  }
}
