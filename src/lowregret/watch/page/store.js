// What the server has told: everything once, then what changes. The page draws from here alone.

export const store = {
  control: false,
  complete: false,
  runs: new Map(),
  groups: new Map(),
};

const LOG_LINES = 400;

export function replaceAll(state) {
  store.control = state.control;
  store.complete = state.complete;
  store.runs = new Map(state.runs.map((run) => [run.number, run]));
  const groups = new Map();
  for (const { trials, log, ...head } of state.groups) {
    groups.set(head.number, { head, log, trials: new Map(trials.map((trial) => [trial.id, trial])), version: 0 });
  }
  store.groups = groups;
}

export function apply(news) {
  store.complete = true;
  for (const number of news.lost ?? []) store.runs.delete(number);
  for (const run of news.runs ?? []) store.runs.set(run.number, run);
  for (const head of news.groups ?? []) groupOf(head.number).head = head;
  for (const [number, id] of news.gone ?? []) touched(number).trials.delete(id);
  for (const { group, again, train = [], held = [], ...row } of news.trials ?? []) {
    const { trials } = touched(group);
    const before = again ? undefined : trials.get(row.id);
    row.train = grown(before?.train, train);
    row.held = grown(before?.held, held);
    trials.set(row.id, row);
  }
  for (const [number, lines] of news.log ?? []) {
    const group = groupOf(number);
    group.log = [...group.log, ...lines].slice(-LOG_LINES);
  }
}

// A step that is there already is not taken twice, whatever is told twice.
function grown(before, more) {
  if (!before) return more;
  const last = before.length ? before[before.length - 1][0] : -1;
  for (const point of more) if (point[0] > last) before.push(point);
  return before;
}

function groupOf(number) {
  if (!store.groups.has(number)) {
    store.groups.set(number, { head: { number }, log: [], trials: new Map(), version: 0 });
  }
  return store.groups.get(number);
}

function touched(number) {
  const group = groupOf(number);
  group.version += 1;
  return group;
}

export function groupsOf(run) {
  return run.groups.map((number) => store.groups.get(number)).filter((group) => group?.head.state);
}

// The trials of a run, each with its group.
export function trialsOf(run) {
  const found = [];
  for (const group of groupsOf(run)) for (const trial of group.trials.values()) found.push({ group, trial });
  return found;
}

// Method → its place among those of the run, by which it has its colour, and its words.
export function methodsOf(run) {
  const found = new Map();
  const add = (name, label, kind) => {
    if (!found.has(name)) found.set(name, { name, label, kind, index: found.size });
  };
  for (const group of groupsOf(run)) for (const method of group.head.methods) add(method.name, method.label, method.kind);
  for (const { trial } of trialsOf(run)) add(trial.method, trial.method, trial.method.startsWith("full") ? "full" : "lora");
  return found;
}

export function isReward(run) {
  return groupsOf(run)[0]?.head.unit === "reward";
}

// How far a run is: counts, time and money, of what the records say.
export function progressOf(run) {
  const groups = groupsOf(run);
  const sum = { ended: 0, running: 0, expected: 0, seconds: 0, left: 0, spent: null, cost: null, workers: 0, pack: 0, statuses: {} };
  let times = 0;
  let weight = 0;
  for (const { head, trials } of groups) {
    let ended = 0;
    let running = 0;
    let taken = 0;
    let started = 0;
    for (const trial of trials.values()) {
      sum.seconds += trial.seconds ?? 0;
      sum.statuses[trial.status] = (sum.statuses[trial.status] ?? 0) + 1;
      if (trial.status !== "running") {
        ended += 1;
        if (trial.status === "finished") {
          taken += trial.seconds ?? 0;
          started += 1;
        }
        continue;
      }
      running += 1;
      if (trial.step && head.steps) sum.left += ((trial.seconds ?? 0) / trial.step) * (head.steps - trial.step);
    }
    times += taken;
    weight += started;
    const expected = Math.max(head.expected ?? 0, ended + running);
    sum.ended += ended;
    sum.running += running;
    sum.pack = Math.max(sum.pack, running);
    sum.expected += head.state === "done" ? ended : expected;
    if (head.worker) sum.workers += 1;
  }
  const price = groups.find(({ head }) => head.price)?.head.price;
  const waiting = Math.max(sum.expected - sum.ended - sum.running, 0);
  const known = weight > 0 || sum.left > 0;
  sum.left = known ? (sum.left + (weight ? (times / weight) * waiting : 0)) / Math.max(sum.workers, 1) : null;
  if (price) {
    sum.spent = (sum.seconds / 3600) * price;
    sum.cost = sum.left === null ? null : (sum.left / 3600) * price;
  }
  return sum;
}

const ORDER = ["training", "paused", "stopped", "waiting", "done"];

export function stateOf(run) {
  const states = groupsOf(run).map(({ head }) => head.state);
  if (run.paused && states.some((state) => state === "training" || state === "paused")) return "paused";
  return ORDER.find((state) => states.includes(state)) ?? "waiting";
}
