// The page: what has changed is drawn, at most four times a second, and less often where that takes long.

import { byId, count, duration, el, loss, money, rate, setText } from "./format.js";
import { bestOf, Curves, lastHeld, Rates, Regret } from "./charts.js";
import { Control } from "./control.js";
import { Detail } from "./detail.js";
import { apply, groupsOf, methodsOf, progressOf, replaceAll, stateOf, store, trialsOf } from "./store.js";
import { follow } from "./stream.js";
import { showGroups, TrialTable } from "./table.js";

const DRAW_MS = 250;
const RULINGS = { low_regret: "Low regret", regret: "Regret", inconclusive: "Not settled" };
let chosen = null;
let due = false;
let drawn = 0;
let takes = 0;

const control = new Control(() => later());
const detail = new Detail((where, trial) => control.ofTrial(where, trial));
const open = (group, id) => detail.open(chosen, group, id);
const curves = new Curves(byId("curves"), byId("near"), ({ group, trial }) => open(group.head.number, trial.id), (zoomed) => {
  byId("whole").hidden = !zoomed;
});
const rates = new Rates(byId("rates"));
const regret = new Regret(byId("regret"), byId("regret-now"));
const table = new TrialTable(byId("trials"), byId("more"), byId("f-method"), byId("f-status"), open);

byId("whole").addEventListener("click", () => curves.plot.whole());
for (const [id, key] of [["which", "train"], ["log", "log"]]) {
  byId(id).addEventListener("click", () => {
    curves[key] = !curves[key === "log" ? "logged" : "training"];
    curves.plot.whole();
    later();
  });
}
byId("f-log").addEventListener("change", () => later());

function later() {
  if (due) return;
  due = true;
  const wait = Math.max(0, Math.max(DRAW_MS, 6 * takes) - (performance.now() - drawn));
  setTimeout(() => requestAnimationFrame(draw), wait);
}

function draw() {
  due = false;
  drawn = performance.now();
  show();
  takes = performance.now() - drawn;
}

function show() {
  if (!store.runs.has(chosen)) chosen = preferred();
  const run = store.runs.get(chosen);
  byId("empty").hidden = Boolean(run);
  byId("run").hidden = !run;
  if (!run) {
    setText(byId("empty").firstElementChild, store.complete ? "No run has begun here yet. This page shows it as soon as one does." : "Reading the records …");
    return;
  }
  const far = progressOf(run);
  showRuns();
  control.show(run);
  showHead(run, far);
  curves.show(run, detail.chosen);
  byId("which").setAttribute("aria-pressed", String(Boolean(curves.training)));
  byId("log").setAttribute("aria-pressed", String(Boolean(curves.logged)));
  showLegend(run);
  showBest(run);
  byId("p-rates").hidden = run.kind === "train" || !trialsOf(run).some(({ trial }) => lastHeld(trial) !== null);
  if (!byId("p-rates").hidden) rates.show(run);
  byId("p-regret").hidden = !(run.regret?.length || run.forecast?.of?.length);
  if (!byId("p-regret").hidden) regret.show(run);
  showClaims(run);
  byId("p-groups").hidden = run.groups.length < 2;
  if (run.groups.length > 1) showGroups(byId("groups"), run);
  table.show(run);
  showOrders(run);
  showLog(run);
  detail.refresh();
  document.body.dataset.drawn = String(Number(document.body.dataset.drawn ?? 0) + 1);
}

// The run that is at work, else the first.
function preferred() {
  const runs = [...store.runs.values()];
  const asked = runs.find(({ name }) => name === decodeURIComponent(location.hash.slice(1)));
  const working = runs.find((run) => ["training", "paused"].includes(stateOf(run)));
  return (asked ?? working ?? runs[0])?.number ?? null;
}

function showRuns() {
  const nav = byId("runs");
  nav.hidden = store.runs.size < 2;
  if (nav.hidden) return;
  const focused = document.activeElement?.dataset.run;
  nav.replaceChildren(
    ...[...store.runs.values()].map((run) => {
      const { ended, expected } = progressOf(run);
      const part = expected ? Math.round((100 * ended) / expected) : 0;
      const bar = el("meter", { min: 0, max: 100, value: part, "aria-hidden": "true" });
      const choose = () => {
        chosen = run.number;
        history.replaceState(null, "", `#${encodeURIComponent(run.name)}`);
        curves.plot.zoom = null;
        byId("whole").hidden = true;
        setText(byId("said"), "");
        later();
      };
      const state = stateOf(run);
      const words = el("span", { class: "small" }, el("span", { class: `state ${state}` }, state), `${ended}/${expected} trials`);
      return el("button", { type: "button", "data-run": run.number, "aria-current": run.number === chosen ? "true" : null, onclick: choose }, el("span", { class: "run" }, run.name), words, bar);
    }),
  );
  if (focused !== undefined) nav.querySelector(`[data-run="${focused}"]`)?.focus();
}

function showHead(run, far) {
  const state = stateOf(run);
  setText(byId("name"), run.name);
  setText(byId("about"), [run.title, run.model, run.data].filter(Boolean).join(" · "));
  byId("problem").hidden = !run.problem;
  setText(byId("problem"), run.problem ?? "");
  const part = far.expected ? Math.min(100, Math.round((100 * (far.ended + partOf(run))) / far.expected)) : 0;
  byId("bar").setAttribute("aria-valuenow", String(part));
  const fill = byId("bar").firstElementChild;
  fill.style.width = `${part}%`;
  fill.className = state;
  document.title = `${state === "training" ? `${part} % · ` : ""}${run.name} · lowregret`;
  const facts = [["state", el("span", { class: `state ${state}` }, state)]];
  facts.push(["trials", `${count(far.ended)} of ${state === "done" ? "" : "about "}${count(far.expected)}`]);
  if (far.running) facts.push(["training", far.pack > 1 ? `${far.running}, up to ${far.pack} in a pack` : String(far.running)]);
  if (far.workers) facts.push(["workers", workers(run)]);
  facts.push(["trained", duration(far.seconds)]);
  if (state === "training" && far.left !== null) facts.push(["left", `about ${duration(far.left)}`]);
  if (far.spent !== null) facts.push(["spent", money(far.spent)]);
  if (far.cost !== null && state === "training") facts.push(["to come", `about ${money(far.cost)}`]);
  const lost = ["failed", "diverged", "pruned"].filter((name) => far.statuses[name]).map((name) => `${far.statuses[name]} ${name}`);
  if (lost.length) facts.push(["not finished", lost.join(", ")]);
  const hidden = groupsOf(run).reduce((sum, { head }) => sum + (head.hidden ?? 0), 0);
  if (hidden) facts.push(["not shown", `${count(hidden)} trials`]);
  byId("facts").replaceChildren(...facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  showVerdict(run);
}

// Of the trials in training: how much of each is done, in trials.
function partOf(run) {
  let part = 0;
  for (const { group, trial } of trialsOf(run)) {
    if (trial.status === "running" && group.head.steps) part += Math.min(1, (trial.step ?? 0) / group.head.steps);
  }
  return part;
}

function workers(run) {
  const found = groupsOf(run).filter(({ head }) => head.worker);
  const hosts = [...new Set(found.map(({ head }) => head.worker.host))];
  const devices = [...new Set(found.map(({ head }) => (head.devices > 1 ? `${head.devices} × ${head.device}` : head.device)))];
  const who = found.length === 1 ? `${hosts[0]}:${found[0].head.worker.pid}` : `${found.length} on ${hosts.join(", ")}`;
  return `${who}, ${devices.join(", ")}`;
}

function showVerdict(run) {
  const node = byId("verdict");
  node.hidden = !run.verdict;
  if (!run.verdict) return;
  const ruling = run.verdict.verdict;
  node.replaceChildren(el("strong", { class: ruling }, RULINGS[ruling] ?? ruling), ` ${run.verdict.reasons[0] ?? ""}`);
}

function showLegend(run) {
  byId("legend").replaceChildren(
    ...[...methodsOf(run).values()].map(({ index, label }) => el("li", {}, el("span", { class: `swatch s${(index % 8) + 1} m${index % 4}`, "aria-hidden": "true" }), label)),
  );
}

function showBest(run) {
  const best = bestOf(run);
  const methods = methodsOf(run);
  const items = trialsOf(run).filter(({ group, trial }) => best.get(`${group.head.number} ${trial.method}`) === trial.id);
  byId("best").replaceChildren(
    ...items.slice(0, 12).map(({ group, trial }) => {
      const { index, label } = methods.get(trial.method);
      const where = group.head.key && run.groups.length > 1 ? `${group.head.key}: ` : "";
      return el("li", {}, el("span", { class: `swatch s${(index % 8) + 1} m${index % 4}`, "aria-hidden": "true" }), `${where}${label}: ${loss(lastHeld(trial))} at ${rate(trial.lr)}`);
    }),
  );
}

function showClaims(run) {
  byId("p-claims").hidden = !run.claims;
  byId("claims").replaceChildren(
    ...(run.claims ?? []).map(({ number, sentence, ruling }) => el("li", {}, el("span", { class: `tag ${ruling.replaceAll(" ", "-")}` }, ruling), ` ${number} ${sentence}`)),
  );
}

function showOrders(run) {
  const orders = groupsOf(run).flatMap(({ head }) => head.orders ?? []);
  const waiting = groupsOf(run).reduce((sum, { head }) => sum + (head.waiting ?? 0), 0);
  byId("p-orders").hidden = !orders.length && !waiting;
  const asked = waiting ? [el("li", {}, `${waiting} waiting for an answer`)] : [];
  const line = ({ when, taken, said }) => el("li", {}, el("span", { class: taken ? "tag" : "tag refused" }, taken ? "done" : "refused"), ` ${said} `, el("time", { datetime: when }, when.slice(11, 16)));
  byId("orders").replaceChildren(...asked, ...orders.map(line).reverse());
}

function showLog(run) {
  const groups = groupsOf(run).filter(({ log }) => log.length);
  byId("p-log").hidden = !groups.length;
  if (!groups.length) return;
  const select = byId("f-log");
  const names = groups.map(({ head }) => head.number).join();
  if (select.dataset.names !== names) {
    const kept = select.value;
    select.replaceChildren(...groups.map(({ head }) => el("option", { value: head.number }, head.key || run.name)));
    select.value = groups.some(({ head }) => String(head.number) === kept) ? kept : String(groups[groups.length - 1].head.number);
    select.dataset.names = names;
  }
  const node = byId("lines");
  const { log } = store.groups.get(Number(select.value));
  const text = log.join("\n");
  if (node.textContent === text) return;
  const atEnd = node.scrollTop + node.clientHeight >= node.scrollHeight - 20;
  node.textContent = text;
  if (atEnd) node.scrollTop = node.scrollHeight;
}

follow({
  all(state) {
    replaceAll(state);
    later();
  },
  news(news) {
    apply(news);
    later();
  },
  status(word) {
    const said = { live: "live", reconnecting: "reconnecting …", locked: "needs the token" }[word];
    setText(byId("connection"), said);
    byId("connection").dataset.state = word;
  },
  unlocked: () => control.askToken(),
});
