// One trial, opened: its facts, its whole curve, and what its samples say.

import { bytes, byId, count, duration, el, loss, rate, setText } from "./format.js";
import { colour, css, extent, padded, path, Plot } from "./plot.js";
import { methodsOf, store } from "./store.js";
import { getJson } from "./stream.js";

const SHOWN = {
  "learning rate": rate,
  "trained parameters": count,
  "peak memory": bytes,
  tokens: count,
  seconds: duration,
};
const AGAIN_MS = 1500;

export class Detail {
  constructor(actions) {
    this.node = byId("detail");
    this.actions = actions;
    this.chosen = null;
    this.found = null;
    this.version = null;
    this.asked = 0;
    this.curve = new Plot(byId("d-curve"), {
      x: { label: "step" },
      y: { format: loss },
      draw: (context, tools) => this.draw(context, tools, this.lines ?? []),
    });
    this.more = new Plot(byId("d-more"), {
      x: { label: "step" },
      y: { format: (value) => String(Number(value.toPrecision(3))) },
      draw: (context, tools) => this.draw(context, tools, this.others ?? []),
    });
    this.node.addEventListener("close", () => {
      this.chosen = null;
    });
  }

  open(run, group, id) {
    this.chosen = { run, group, id };
    this.found = null;
    setText(byId("d-said"), "");
    byId("d-samples").replaceChildren();
    byId("d-facts").replaceChildren();
    if (!this.node.open) this.node.showModal();
    this.refresh(true);
  }

  get trial() {
    return this.chosen && store.groups.get(this.chosen.group)?.trials.get(this.chosen.id);
  }

  // Called when something has changed: asks anew where it was this trial, not more often than is read.
  async refresh(now = false) {
    const trial = this.trial;
    if (!trial) {
      if (this.chosen) this.node.close();
      return;
    }
    const version = `${trial.status} ${trial.step} ${trial.held?.length}`;
    if (!now && (version === this.version || Date.now() - this.asked < AGAIN_MS)) return;
    this.version = version;
    this.asked = Date.now();
    const { group, id } = this.chosen;
    try {
      const found = await getJson(`trial/${group}/${encodeURIComponent(id)}`);
      if (this.chosen?.id === id && this.chosen.group === group) this.show(found);
    } catch (error) {
      setText(byId("d-said"), error.message);
    }
  }

  show(found) {
    this.found = found;
    const { run, group } = this.chosen;
    const method = methodsOf(store.runs.get(run)).get(this.trial.method);
    setText(byId("d-name"), `${method.label}, ${rate(this.trial.lr)}, seed ${this.trial.seed}`);
    const column = (name) => {
      const at = found.columns.indexOf(name);
      return found.curve.filter((point) => point[at] !== null).map((point) => [point[0], point[at]]);
    };
    const rewards = column("reward");
    this.lines = [
      { name: rewards.length ? "Reward in training (thin)" : "Loss in training (thin)", points: rewards.length ? rewards : column("train"), style: () => css("--muted"), width: 1.2 },
      { name: "held out (bold)", points: column("held"), style: () => colour(method.index), width: 2.4 },
    ];
    this.others = rewards.length
      ? [
          { name: "Entropy", points: column("entropy"), style: () => css("--series-2"), width: 1.6 },
          { name: "KL", points: column("kl"), style: () => css("--series-3"), width: 1.6 },
        ]
      : [{ name: "Gradient norm", points: column("grad_norm"), style: () => css("--series-4"), width: 1.4 }];
    const steps = store.groups.get(group).head.steps ?? 1;
    this.frame(this.curve, byId("d-curve"), this.lines, steps);
    this.frame(this.more, byId("d-more"), this.others, steps);
    this.facts(found);
    this.samples(found);
    this.actions(this.chosen, this.trial);
  }

  frame(plot, node, lines, steps) {
    const points = lines.flatMap((line) => line.points);
    node.hidden = byId(`${node.id}-names`).hidden = points.length === 0;
    if (!points.length) return;
    const values = points.map(([, value]) => value);
    const [first, last] = extent([steps, ...points.map(([step]) => step)]);
    plot.set({ x: [Math.min(first, last - 1), last], y: padded(...extent(values)) });
    const names = lines.filter((line) => line.points.length).map((line) => line.name).join(" and ");
    node.setAttribute("role", "img");
    node.setAttribute("aria-label", `${names} by step; the last is ${loss(values[values.length - 1])}`);
    setText(byId(`${node.id}-names`), names);
  }

  draw(context, tools, lines) {
    for (const { points, style, width } of lines) {
      context.strokeStyle = context.fillStyle = style();
      context.lineWidth = width * tools.ratio;
      path(context, points, tools);
      if (width < 2) continue;
      for (const [step, value] of points) {
        context.beginPath();
        context.arc(tools.x(step), tools.y(value), 2.6 * tools.ratio, 0, 7);
        context.fill();
      }
    }
  }

  facts(found) {
    const shown = Object.entries(found.facts).filter(([, value]) => value !== null && value !== "");
    if (found.failures) shown.push(["grading failed", `${found.failures} samples`]);
    byId("d-facts").replaceChildren(
      ...shown.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, (SHOWN[name] ?? String)(value)))),
    );
  }

  samples(found) {
    const steps = [...new Set(found.samples.map(({ step }) => step))];
    const node = byId("d-samples");
    const open = new Set([...node.querySelectorAll("details[open]")].map((each) => each.dataset.key));
    node.replaceChildren();
    if (!steps.length) return;
    node.append(el("h3", {}, "What it says to held-out problems"));
    for (const [number, sample] of found.samples.filter(({ step }) => step === steps[steps.length - 1]).entries()) {
      const before = found.samples.filter(({ step }) => step === steps[0] && steps.length > 1)[number];
      const key = String(number);
      const mark = sample.reward === null ? "" : `reward ${before && before.reward !== null ? `${before.reward} → ` : ""}${sample.reward}`;
      const sides = [before, sample].filter(Boolean).map((each) => el("figure", {}, el("figcaption", {}, `step ${each.step}`), el("pre", {}, each.completion)));
      const inside = el("div", { class: "sides" }, ...sides);
      const line = sample.prompt.replace(/\s+/g, " ").slice(0, 90);
      node.append(
        el("details", { "data-key": key, open: open.has(key) || (number === 0 && !open.size) }, el("summary", {}, line, el("span", { class: "tag" }, mark)), el("pre", { class: "prompt" }, sample.prompt), inside),
      );
    }
  }
}
