// The table of trials: sorted, filtered, a hundred rows at a time; and that of the groups with their workers.

import { count, duration, el, loss, rate, setText } from "./format.js";
import { bestOf, lastHeld } from "./charts.js";
import { groupsOf, isReward, methodsOf, trialsOf } from "./store.js";

const PART = 100;
const STATUSES = ["running", "finished", "pruned", "diverged", "failed"];

const COLUMNS = [
  { key: "method", name: "method", of: ({ method }) => method.index, left: true },
  { key: "lr", name: "rate", of: ({ trial }) => trial.lr },
  { key: "seed", name: "seed", of: ({ trial }) => trial.seed },
  { key: "held", name: "held-out", of: ({ trial }) => lastHeld(trial) ?? Infinity },
  { key: "status", name: "status", of: ({ trial }) => STATUSES.indexOf(trial.status), left: true },
  { key: "group", name: "group", of: ({ group }) => group.head.key, left: true, groups: true },
  { key: "trained", name: "training", of: ({ trial }) => trial.trained ?? Infinity, wide: true },
  { key: "seconds", name: "time", of: ({ trial }) => trial.seconds ?? 0, wide: true },
  { key: "pace", name: "tokens/s", of: ({ trial }) => trial.pace ?? 0, wide: true },
];

export class TrialTable {
  constructor(node, more, method, status, choose) {
    Object.assign(this, { node, more, method, status, choose });
    this.sort = { key: "status", up: true };
    this.rows = PART;
    more.addEventListener("click", () => {
      this.rows += PART * 5;
      this.show(this.run);
    });
    for (const select of [method, status]) select.addEventListener("change", () => this.show(this.run));
    status.append(...STATUSES.map((name) => el("option", { value: name }, name)));
    node.addEventListener("click", (event) => this.clicked(event));
  }

  clicked(event) {
    const head = event.target.closest("th button");
    if (head) {
      const key = head.dataset.key;
      this.sort = { key, up: this.sort.key === key ? !this.sort.up : true };
      this.show(this.run);
      this.node.querySelector(`button[data-key="${key}"]`)?.focus();
      return;
    }
    const row = event.target.closest("tr[data-id]");
    if (row) this.choose(Number(row.dataset.group), row.dataset.id);
  }

  show(run) {
    if (run !== this.run && run.number !== this.run?.number) this.rows = PART;
    this.run = run;
    const methods = methodsOf(run);
    this.fillMethods(methods);
    const best = bestOf(run);
    const grouped = run.groups.length > 1;
    const columns = COLUMNS.filter(({ groups }) => !groups || grouped);
    const items = trialsOf(run)
      .map((found) => ({ ...found, method: methods.get(found.trial.method) }))
      .filter(({ trial }) => !this.method.value || trial.method === this.method.value)
      .filter(({ trial }) => !this.status.value || trial.status === this.status.value);
    this.ordered(items, columns, isReward(run) ? -1 : 1);
    const shown = items.slice(0, this.rows);
    const focused = document.activeElement?.closest("tr[data-id]")?.dataset.id;
    const body = el("tbody", {}, ...shown.map((item) => this.row(item, columns, best, run)));
    const caption = el("caption", { class: "hidden" }, `${items.length} trials`);
    this.node.replaceChildren(caption, this.head(columns, run), body);
    if (focused) [...body.rows].find((row) => row.dataset.id === focused)?.querySelector("button").focus();
    this.more.hidden = items.length <= this.rows;
    setText(this.more, `Show more (${count(items.length - shown.length)} of ${count(items.length)} are not shown)`);
  }

  fillMethods(methods) {
    const names = [...methods.keys()].join("\n");
    if (names === this.names) return;
    this.names = names;
    const kept = this.method.value;
    this.method.replaceChildren(el("option", { value: "" }, "all"), ...[...methods.values()].map(({ name, label }) => el("option", { value: name }, label)));
    this.method.value = methods.has(kept) ? kept : "";
  }

  // `good` is 1 where small results are good ones, else −1.
  ordered(items, columns, good) {
    const column = columns.find(({ key }) => key === this.sort.key) ?? columns[0];
    const sign = this.sort.up ? 1 : -1;
    const compare = (one, other) => (one < other ? -1 : one > other ? 1 : 0);
    items.sort(
      (a, b) =>
        sign * compare(column.of(a), column.of(b)) ||
        (column.key === "status" ? compare(good * (lastHeld(a.trial) ?? Infinity), good * (lastHeld(b.trial) ?? Infinity)) : 0) ||
        a.method.index - b.method.index ||
        compare(a.group.head.number, b.group.head.number) ||
        a.trial.lr - b.trial.lr ||
        a.trial.seed - b.trial.seed,
    );
  }

  head(columns, run) {
    const cells = columns.map(({ key, name, left, wide }) => {
      const sorted = this.sort.key === key ? (this.sort.up ? "ascending" : "descending") : null;
      const text = key === "held" && isReward(run) ? "reward" : name;
      return el(
        "th",
        { scope: "col", class: `${left ? "left" : ""} ${wide ? "wide" : ""}`, "aria-sort": sorted },
        el("button", { type: "button", "data-key": key }, text),
      );
    });
    return el("thead", {}, el("tr", {}, ...cells));
  }

  row({ group, trial, method }, columns, best, run) {
    const isBest = best.get(`${group.head.number} ${trial.method}`) === trial.id;
    const steps = group.head.steps;
    const cells = {
      method: el(
        "button",
        { type: "button", class: "name" },
        el("span", { class: `swatch s${(method.index % 8) + 1} m${method.index % 4}`, "aria-hidden": "true" }),
        method.label,
      ),
      group: group.head.key,
      lr: rate(trial.lr),
      seed: String(trial.seed),
      status: statusCell(trial, steps),
      held: lastHeld(trial) === null ? "" : loss(lastHeld(trial)),
      trained: loss(trial.trained),
      seconds: duration(trial.seconds ?? 0),
      pace: trial.pace ? count(trial.pace) : "",
    };
    const row = el("tr", { "data-id": trial.id, "data-group": group.head.number, class: isBest ? "winner" : null });
    for (const { key, left, wide } of columns) {
      const cell = el("td", { class: `${left ? "left" : ""} ${wide ? "wide" : ""}` }, cells[key]);
      if (key === "held" && isBest) cell.append(el("span", { class: "tag" }, "best"));
      row.append(cell);
    }
    return row;
  }
}

function statusCell(trial, steps) {
  const asked = trial.error?.startsWith("stopped by request");
  const text = asked ? "stopped" : trial.status;
  const node = el("span", { class: `status ${trial.status}`, title: trial.error ?? trial.note ?? null }, text);
  if (trial.status !== "running") return node;
  const part = steps ? Math.min(1, (trial.step ?? 0) / steps) : 0;
  const meter = el("meter", { min: 0, max: 1, value: part, "aria-hidden": "true" });
  return el("span", { class: "going" }, node, meter, el("span", { class: "step" }, `${trial.step ?? 0}${steps ? `/${steps}` : ""}`));
}

export function showGroups(node, run) {
  const head = ["group", "state", "trials", "training", "worker", "device"];
  const rows = groupsOf(run).map(({ head: group, trials }) => {
    const all = [...trials.values()];
    const running = all.filter(({ status }) => status === "running");
    const lead = running.reduce((most, { step }) => Math.max(most, step ?? 0), 0);
    const ended = all.length - running.length;
    const expected = group.state === "done" ? ended : Math.max(group.expected ?? 0, all.length);
    const going = running.length ? `${running.length} in one pack, step ${lead}${group.steps ? `/${group.steps}` : ""}` : "";
    const worker = group.worker ? `${group.worker.host}:${group.worker.pid}` : "";
    const device = group.devices > 1 ? `${group.devices} × ${group.device}` : group.device;
    return el(
      "tr",
      {},
      el("td", { class: "left" }, group.key || run.name),
      el("td", { class: "left" }, el("span", { class: `state ${group.state}` }, group.state)),
      el("td", {}, `${ended}/${expected}`),
      el("td", { class: "left" }, going),
      el("td", { class: "left" }, worker),
      el("td", { class: "left" }, device ?? ""),
    );
  });
  const cells = head.map((name) => el("th", { scope: "col", class: name === "trials" ? null : "left" }, name));
  node.replaceChildren(el("thead", {}, el("tr", {}, ...cells)), el("tbody", {}, ...rows));
}
