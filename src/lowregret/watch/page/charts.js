// The three figures of a run: its curves, the search for rates, and how the regret narrows.

import { forecastOf, forecastWords } from "./forecast.js";
import { loss, rate, setText, signed } from "./format.js";
import { colour, css, dashes, extent, mark, padded, path, Plot, quantile } from "./plot.js";
import { isReward, methodsOf, trialsOf } from "./store.js";

const NEAR = 26;

export class Curves {
  constructor(node, near, choose, zoomed) {
    this.near = near;
    this.train = null;
    this.log = null;
    this.rewarded = false;
    this.items = [];
    this.found = null;
    this.plot = new Plot(node, {
      x: { label: "step" },
      y: { format: loss },
      draw: (context, tools) => this.draw(context, tools),
      hover: (at) => this.hover(at),
      click: () => this.found && choose(this.found),
      zoomed,
    });
    this.node = node;
  }

  show(run, selected) {
    const methods = methodsOf(run);
    const best = bestOf(run);
    this.rewarded = isReward(run);
    const measured = trialsOf(run).some(({ trial }) => trial.held?.length);
    this.training = this.train ?? !measured;
    this.items = trialsOf(run)
      .map(({ group, trial }) => ({
        group,
        trial,
        method: methods.get(trial.method),
        points: (this.training ? trial.train : trial.held) ?? [],
        best: best.get(`${group.head.number} ${trial.method}`) === trial.id,
        selected: selected?.id === trial.id && selected?.group === group.head.number,
      }))
      .filter(({ points }) => points.length);
    this.items.sort((one, other) => level(one) - level(other));
    const every = this.items.flatMap(({ points }) => points);
    const positive = every.filter(([, value]) => value > 0);
    const log = positive.length > 0 && (this.log ?? (!this.rewarded && isWide(positive)));
    this.logged = log;
    const values = (log ? positive : every).map(([, value]) => value).filter((value) => value !== null);
    const [, last] = extent(this.items.map(({ points }) => points[points.length - 1][0]));
    const steps = Math.max(1, last, ...groupSteps(run));
    const [first] = this.items.length ? extent(this.items.map(({ points }) => points[0][0])) : [0];
    const [low, most] = extent(values);
    const high = this.rewarded ? most : Math.max(quantile(values, 0.985), low);
    this.plot.set(
      { x: [Math.min(first, steps - 1), steps], y: values.length ? padded(low, high, log) : [0, 1] },
      { y: log },
    );
    const what = this.training ? "in training" : "held out";
    const said = `${this.items.length} ${this.items.length === 1 ? "curve" : "curves"} of ${this.rewarded ? "reward" : "loss"} ${what}, by step. ${bestWords(run)}`;
    this.node.setAttribute("aria-label", said);
    this.node.setAttribute("role", "img");
  }

  draw(context, tools) {
    const many = this.items.length > 150;
    const one = tools.ratio;
    context.lineJoin = "round";
    for (const item of this.items) {
      const { trial, method, points } = item;
      const lost = trial.status === "pruned" || trial.status === "failed" || trial.status === "diverged";
      context.strokeStyle = colour(method.index);
      context.globalAlpha = item.selected || item.best || trial.status === "running" ? 1 : many ? 0.25 : lost ? 0.5 : 0.75;
      context.lineWidth = (item.selected ? 3.4 : item.best ? 2.6 : many ? 1 : 1.6) * one;
      context.setLineDash((lost ? [4, 4] : dashes(method.index)).map((length) => length * one));
      path(context, points, tools);
      if (points.length === 1 || trial.status === "running") {
        const [step, value] = points[points.length - 1];
        context.setLineDash([]);
        context.fillStyle = colour(method.index);
        mark(context, method.index, tools.x(step), tools.y(value), 3 * one);
        context.fill();
      }
    }
    context.globalAlpha = 1;
    context.setLineDash([]);
    if (this.found) {
      context.strokeStyle = css("--ink");
      context.lineWidth = 1.6 * one;
      path(context, this.found.points, tools);
    }
  }

  hover(at) {
    const before = this.found;
    this.found = at && this.nearest(at);
    if (this.found !== before) this.plot.redraw();
    setText(this.near, this.found ? words(this.found, this.rewarded) : this.hint());
  }

  hint() {
    return this.items.length ? "Point at a curve to see whose it is; click to open it; drag to zoom, double click for the whole." : "";
  }

  nearest({ left, top, u }) {
    let found = null;
    let least = NEAR;
    for (const item of this.items) {
      let [x0, y0] = [null, null];
      for (const [step, value] of item.points) {
        const x = u.valToPos(step, "x");
        const y = u.valToPos(value, "y");
        const apart = x0 === null ? Math.hypot(x - left, y - top) : toSegment(left, top, x0, y0, x, y);
        if (apart < least) [found, least] = [item, apart];
        [x0, y0] = [x, y];
      }
    }
    return found;
  }
}

function toSegment(px, py, x0, y0, x1, y1) {
  const length = (x1 - x0) ** 2 + (y1 - y0) ** 2;
  const part = length ? Math.max(0, Math.min(1, ((px - x0) * (x1 - x0) + (py - y0) * (y1 - y0)) / length)) : 0;
  return Math.hypot(px - x0 - part * (x1 - x0), py - y0 - part * (y1 - y0));
}

// Whether a linear axis would show nothing of the small ones.
function isWide(points) {
  const values = points.map(([, value]) => value);
  return quantile(values, 0.9) / quantile(values, 0.1) > 40;
}

function level(item) {
  return (item.selected ? 4 : 0) + (item.best ? 2 : 0) + (item.trial.status === "running" ? 1 : 0);
}

function groupSteps(run) {
  return [...new Set(trialsOf(run).map(({ group }) => group.head.steps ?? 0))];
}

function words({ group, trial, method }, rewarded) {
  const where = group.head.key ? `${group.head.key}: ` : "";
  const last = lastHeld(trial);
  const said = last === null ? "" : `, ${rewarded ? "reward" : "held-out loss"} ${loss(last)}`;
  return `${where}${method.label} at ${rate(trial.lr)}, seed ${trial.seed}: ${trial.status}, step ${trial.step ?? 0}${said}`;
}

// "group method" → the id of its best finished trial.
export function bestOf(run) {
  const sign = isReward(run) ? -1 : 1;
  const found = new Map();
  const least = new Map();
  for (const { group, trial } of trialsOf(run)) {
    if (trial.status !== "finished" || lastHeld(trial) === null) continue;
    const key = `${group.head.number} ${trial.method}`;
    const value = sign * lastHeld(trial);
    if (!least.has(key) || value < least.get(key)) {
      least.set(key, value);
      found.set(key, trial.id);
    }
  }
  return found;
}

// A trial's last held-out result: `end` of its record, or the last of its curve.
export function lastHeld(trial) {
  return trial.end ?? (trial.held?.length ? trial.held[trial.held.length - 1][1] : null);
}

function bestWords(run) {
  const best = bestOf(run);
  const methods = methodsOf(run);
  const said = trialsOf(run)
    .filter(({ group, trial }) => best.get(`${group.head.number} ${trial.method}`) === trial.id)
    .map(({ trial }) => `${methods.get(trial.method).label} at ${rate(trial.lr)}: ${loss(lastHeld(trial))}`);
  return said.length ? `Best so far: ${said.slice(0, 8).join("; ")}.` : "None has finished.";
}

export class Rates {
  constructor(node) {
    this.node = node;
    this.plot = new Plot(node, {
      x: { label: "learning rate", format: rate },
      y: { format: loss },
      draw: (context, tools) => this.draw(context, tools),
    });
    this.methods = [];
  }

  show(run) {
    const methods = methodsOf(run);
    const every = trialsOf(run);
    this.lines = new Map();
    const finite = [];
    const rates = [];
    for (const { group, trial } of every) {
      const key = `${group.head.number} ${trial.method}`;
      if (!this.lines.has(key)) this.lines.set(key, { index: methods.get(trial.method).index, points: [] });
      const value = lastHeld(trial);
      rates.push(trial.lr);
      if (trial.status === "finished" && value !== null) finite.push(value);
      this.lines.get(key).points.push({ trial, value });
    }
    for (const line of this.lines.values()) line.points.sort((a, b) => a.trial.lr - b.trial.lr || a.trial.seed - b.trial.seed);
    const values = finite.length ? finite : every.map(({ trial }) => lastHeld(trial)).filter((value) => value !== null);
    const [low, high] = extent(values);
    const log = !isReward(run) && low > 0 && high / low > 12;
    this.plot.set(
      { x: padded(...extent(rates), true), y: values.length ? padded(low, high, log) : [0, 1] },
      { x: true, y: log },
    );
    this.node.setAttribute("role", "img");
    this.node.setAttribute("aria-label", `Results by learning rate. ${bestWords(run)}`);
  }

  draw(context, tools) {
    const one = tools.ratio;
    const { top, height } = tools.box;
    for (const { index, points } of this.lines?.values() ?? []) {
      context.strokeStyle = context.fillStyle = colour(index);
      context.lineWidth = 1.8 * one;
      context.globalAlpha = this.lines.size > 12 ? 0.6 : 1;
      context.setLineDash(dashes(index).map((length) => length * one));
      const searched = points.filter(({ trial, value }) => trial.seed === 0 && trial.status === "finished" && value !== null);
      path(context, searched.map(({ trial, value }) => [trial.lr, value]), tools);
      context.setLineDash([]);
      for (const { trial, value } of points) {
        const x = tools.x(trial.lr);
        const diverged = trial.status === "diverged" || value === null;
        if (diverged && trial.status !== "diverged") continue;
        const y = diverged ? top + 9 * one : Math.min(Math.max(tools.y(value), top + 9 * one), top + height - 5 * one);
        if (diverged) cross(context, x, y, 4 * one);
        else {
          mark(context, index, x, y, (trial.seed === 0 ? 4 : 2.6) * one);
          if (trial.status === "finished") context.fill();
          else {
            context.save();
            context.fillStyle = css("--panel");
            context.fill();
            context.restore();
            context.setLineDash(trial.status === "running" ? [] : [2 * one, 2 * one]);
            context.stroke();
            context.setLineDash([]);
          }
        }
      }
      context.globalAlpha = 1;
    }
  }
}

function cross(context, x, y, size) {
  context.beginPath();
  context.moveTo(x - size, y - size);
  context.lineTo(x + size, y + size);
  context.moveTo(x - size, y + size);
  context.lineTo(x + size, y - size);
  context.stroke();
}

export class Regret {
  constructor(node, now) {
    this.node = node;
    this.now = now;
    this.points = [];
    this.forecast = null;
    this.plot = new Plot(node, {
      x: { label: "trials that have ended", format: (value) => (Number.isInteger(value) && value >= 0 ? String(value) : "") },
      y: { format: signed },
      draw: (context, tools) => this.draw(context, tools),
    });
  }

  show(run) {
    this.points = run.regret ?? [];
    const expected = forecastOf(run);
    this.forecast = expected?.regret === undefined ? null : expected;
    const ends = this.points.flatMap(({ regret, low, high, tolerance }) => [regret, low, high, tolerance]);
    if (this.forecast) ends.push(this.forecast.low, this.forecast.high);
    const known = ends.filter((value) => value !== undefined && value !== null);
    // An interval of one seed may be wide beyond all others: the last ones are what is to be seen.
    const late = this.points.slice(-12).flatMap(({ regret, low, high, tolerance, seeds }) => (seeds > 1 ? [low, high, tolerance] : [regret, tolerance]));
    const shown = late.filter((value) => value !== undefined);
    const [low, high] = span(shown.length > 2 ? shown.concat(this.forecast ? [this.forecast.low, this.forecast.high] : []) : known);
    const first = this.points[0]?.trials ?? 0;
    const last = this.points[this.points.length - 1]?.trials ?? 1;
    const start = this.forecast ? first - Math.max(1, (last - first) * 0.12) : first;
    this.plot.set({ x: padded(start, Math.max(last, first + 1)), y: padded(Math.min(low, 0), Math.max(high, 0)) });
    this.start = start;
    this.say(run);
  }

  say(run) {
    const last = this.points[this.points.length - 1];
    const unit = isReward(run) ? "" : " nats";
    let said = "";
    if (last) {
      said = `Regret of ${last.method}: ${signed(last.regret)}${unit}`;
      if (last.low !== undefined && last.seeds > 1) said += ` (95 % interval ${signed(last.low)} to ${signed(last.high)})`;
      if (!(last.seeds > 1)) said += ", of one seed: how much that varies is not known";
      if (last.tolerance !== undefined) said += `; low below ${signed(last.tolerance)}`;
    }
    const forecast = forecastWords(run);
    if (forecast) said += `${said ? ". " : ""}${forecast}`;
    setText(this.now, said);
    this.node.setAttribute("role", "img");
    this.node.setAttribute("aria-label", `The regret and its interval after each trial. ${said}`);
  }

  draw(context, tools) {
    const one = tools.ratio;
    const { left, width } = tools.box;
    const line = (value, dash, style) => {
      context.setLineDash(dash.map((length) => length * one));
      context.strokeStyle = style;
      context.lineWidth = 1.3 * one;
      context.beginPath();
      context.moveTo(left, tools.y(value));
      context.lineTo(left + width, tools.y(value));
      context.stroke();
      context.setLineDash([]);
    };
    line(0, [], css("--axis"));
    const known = this.points.filter(({ low, seeds }) => low !== undefined && seeds > 1);
    context.fillStyle = css("--series-1");
    context.globalAlpha = 0.18;
    if (known.length > 1) {
      context.beginPath();
      known.forEach(({ trials, high }, number) => context[number ? "lineTo" : "moveTo"](tools.x(trials), tools.y(high)));
      [...known].reverse().forEach(({ trials, low }) => context.lineTo(tools.x(trials), tools.y(low)));
      context.fill();
    }
    context.globalAlpha = 1;
    context.strokeStyle = css("--series-1");
    context.lineWidth = 2.2 * one;
    path(context, this.points.map(({ trials, regret }) => [trials, regret]), tools);
    for (const { trials, regret, seeds } of this.points) {
      mark(context, 0, tools.x(trials), tools.y(regret), 2.6 * one);
      context.fillStyle = css(seeds > 1 ? "--series-1" : "--panel");
      context.fill();
      context.stroke();
    }
    const last = known[known.length - 1];
    if (last) whisker(context, tools, last.trials, last.low, last.high, css("--series-1"));
    const tolerance = this.points[this.points.length - 1]?.tolerance;
    if (tolerance !== undefined) line(tolerance, [6, 4], css("--good"));
    if (this.forecast) {
      whisker(context, tools, this.start, this.forecast.low, this.forecast.high, css("--series-4"));
      context.fillStyle = css("--series-4");
      mark(context, 3, tools.x(this.start), tools.y(this.forecast.regret), 4 * one);
      context.fill();
    }
  }
}

function span(values) {
  return values.length ? extent(values) : [0, 0];
}

function whisker(context, tools, at, low, high, style) {
  const x = tools.x(at);
  const end = 4 * tools.ratio;
  context.strokeStyle = style;
  context.lineWidth = 2 * tools.ratio;
  context.beginPath();
  context.moveTo(x, tools.y(low));
  context.lineTo(x, tools.y(high));
  for (const value of [low, high]) {
    context.moveTo(x - end, tools.y(value));
    context.lineTo(x + end, tools.y(value));
  }
  context.stroke();
}
