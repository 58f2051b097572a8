// A plot: uPlot's axes, cursor and zoom; what is on it is drawn here, a path a curve, so that thousands of them are
// one pass over a canvas. Colours are those of the style sheet, light or dark.

const dark = matchMedia("(prefers-color-scheme: dark)");
const watched = new Set();
dark.addEventListener("change", () => watched.forEach((plot) => plot.redraw()));

export function css(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// The colours of methods, in their order; the ninth has the first again, dashed.
export function colour(index) {
  return css(`--series-${(index % 8) + 1}`);
}

export function dashes(index) {
  return index >= 8 ? [6, 4] : [];
}

export class Plot {
  // `options`: x and y ({log, label, format}), draw(context, tools), hover({x, y, left, top} or null), click().
  constructor(node, options) {
    this.node = node;
    this.options = options;
    this.zoom = null;
    this.domain = { x: [0, 1], y: [0, 1] };
    this.plot = null;
    this.key = "";
    new ResizeObserver(() => this.resize()).observe(node);
    watched.add(this);
  }

  // Show these ranges, unless the reader has zoomed; `log` is per axis.
  set(domain, log = {}) {
    this.domain = domain;
    const key = `${Boolean(log.x)}${Boolean(log.y)}`;
    if (!this.plot || key !== this.key) this.build(log, key);
    this.applyRange();
  }

  build(log, key) {
    this.plot?.destroy();
    this.key = key;
    const { x, y } = this.options;
    const axis = (side, of) => ({
      stroke: () => css("--muted"),
      grid: { stroke: () => css("--grid"), width: 1, ...(log[side] && { filter: (_, splits) => splits }) },
      ticks: { stroke: () => css("--grid"), width: 1, size: 4, ...(log[side] && { filter: (_, splits) => splits }) },
      font: `11px ${css("--font")}`,
      label: of.label,
      labelFont: `12px ${css("--font")}`,
      labelSize: 18,
      size: side === "y" ? 58 : 34,
      space: side === "y" ? 34 : 56,
      values: of.format && ((_, splits) => splits.map((value) => (value === null ? "" : of.format(value)))),
      ...(log[side] && { splits: (_, index, min, max) => logSplits(min, max, side === "x" ? 5 : 8), filter: (_, splits) => splits }),
    });
    const scale = (name) => ({ time: false, auto: false, distr: log[name] ? 3 : 1, log: 10, range: (_, min, max) => [min, max] });
    const { width, height } = this.size();
    this.plot = new uPlot(
      {
        width,
        height,
        padding: [10, 12, 0, 0],
        legend: { show: false },
        cursor: { drag: { x: true, y: true, setScale: false, uni: 24 }, points: { show: false } },
        scales: { x: scale("x"), y: scale("y") },
        axes: [axis("x", x), axis("y", y)],
        series: [{}, { paths: () => null, points: { show: false } }],
        hooks: {
          draw: [(u) => this.paint(u)],
          setSelect: [(u) => this.select(u)],
          setCursor: [(u) => this.point(u)],
        },
      },
      [[1, 2], [1, 2]],
      this.node,
    );
    this.plot.over.addEventListener("dblclick", () => this.whole());
    this.plot.over.addEventListener("click", () => this.options.click?.());
  }

  size() {
    return { width: Math.max(this.node.clientWidth, 120), height: Math.max(this.node.clientHeight, 120) };
  }

  resize() {
    if (!this.plot) return;
    const size = this.size();
    if (size.width !== this.plot.width || size.height !== this.plot.height) this.plot.setSize(size);
  }

  redraw() {
    this.plot?.redraw(false, true);
  }

  applyRange() {
    const { x, y } = this.zoom ?? this.domain;
    this.plot.batch(() => {
      this.plot.setScale("x", { min: x[0], max: x[1] });
      this.plot.setScale("y", { min: y[0], max: y[1] });
    });
    this.redraw();
  }

  whole() {
    this.zoom = null;
    this.options.zoomed?.(false);
    this.applyRange();
  }

  select(u) {
    const { left, top, width, height } = u.select;
    if (width < 6 && height < 6) return;
    const x = width < 6 ? this.domain.x : [u.posToVal(left, "x"), u.posToVal(left + width, "x")];
    const y = height < 6 ? this.domain.y : [u.posToVal(top + height, "y"), u.posToVal(top, "y")];
    this.zoom = { x, y };
    u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    this.options.zoomed?.(true);
    this.applyRange();
  }

  point(u) {
    const { left, top } = u.cursor;
    if (left === undefined || left < 0) this.options.hover?.(null);
    else this.options.hover?.({ left, top, x: u.posToVal(left, "x"), y: u.posToVal(top, "y"), u });
  }

  paint(u) {
    const context = u.ctx;
    const box = u.bbox;
    context.save();
    context.beginPath();
    context.rect(box.left, box.top, box.width, box.height);
    context.clip();
    this.options.draw(context, {
      x: (value) => u.valToPos(value, "x", true),
      y: (value) => u.valToPos(value, "y", true),
      box,
      ratio: devicePixelRatio,
    });
    context.restore();
  }
}

const STEPS = [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 4, 5, 7], [1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9]];

// Where a logarithmic axis has its lines: the most of these that are no more than `most`.
function logSplits(min, max, most) {
  if (!(min > 0 && max > min && Number.isFinite(max))) return [];
  let found = [];
  for (const steps of STEPS) {
    const tried = [];
    for (let power = Math.floor(Math.log10(min)); power <= Math.log10(max); power += 1) {
      for (const step of steps) {
        const value = Number(`${step}e${power}`);
        if (value >= min && value <= max) tried.push(value);
      }
    }
    if (tried.length > most && found.length > 1) break;
    found = tried.length > 2 * most ? tried.filter((_, place) => place % Math.ceil(tried.length / most) === 0) : tried;
  }
  return found;
}

export function path(context, points, tools) {
  context.beginPath();
  let pen = false;
  for (const [step, value] of points) {
    if (value === null) {
      pen = false;
      continue;
    }
    const x = tools.x(step);
    const y = tools.y(value);
    if (pen) context.lineTo(x, y);
    else context.moveTo(x, y);
    pen = true;
  }
  context.stroke();
}

// A mark by a method's place: circle, square, triangle, diamond, so that colour is not all that tells.
export function mark(context, index, x, y, size) {
  context.beginPath();
  if (index % 4 === 0) context.arc(x, y, size, 0, 7);
  else if (index % 4 === 1) context.rect(x - size, y - size, 2 * size, 2 * size);
  else {
    const corners = index % 4 === 2 ? [[0, -1.25], [1.15, 0.85], [-1.15, 0.85]] : [[0, -1.35], [1.2, 0], [0, 1.35], [-1.2, 0]];
    corners.forEach(([dx, dy], number) => {
      if (number) context.lineTo(x + dx * size, y + dy * size);
      else context.moveTo(x + dx * size, y + dy * size);
    });
    context.closePath();
  }
}

export function padded(low, high, log = false) {
  if (!(low <= high)) return log ? [0.1, 1] : [0, 1];
  if (log) {
    const room = Math.max((high / low) ** 0.06, 1.05);
    return [low / room, high * room];
  }
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  return [low - room, high + room];
}

export function quantile(values, share) {
  const sorted = Float64Array.from(values).sort();
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
}

// [least, greatest] of any number of values; of none [Infinity, -Infinity].
export function extent(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}
