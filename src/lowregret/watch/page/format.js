// Numbers as a reader would say them, and elements made of text alone.

const MINUS = "−";

export function loss(value) {
  if (value === null || value === undefined) return "";
  const size = Math.abs(value);
  let text = size.toFixed(4);
  if (size !== 0 && size < 5e-4) text = size < 1e-4 ? size.toExponential(1).replace(".0e", "e") : size.toPrecision(2);
  return (value < 0 ? MINUS : "") + text;
}

export function signed(value) {
  return (value > 0 ? "+" : "") + loss(value);
}

export function rate(value) {
  const [mantissa, exponent] = value.toExponential(2).split("e");
  return `${mantissa.replace(/\.?0+$/, "")}e${Number(exponent)}`;
}

export function count(value) {
  return Math.round(value).toLocaleString("en");
}

export function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${(seconds / 3600).toFixed(1)} h`;
  return `${(seconds / 86400).toFixed(1)} days`;
}

export function bytes(value) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let power = 0;
  while (value >= 999.5 && power < units.length - 1) {
    value /= 1000;
    power += 1;
  }
  return `${Number(value.toPrecision(3))} ${units[power]}`;
}

export function money(value) {
  return `$${value < 10 ? value.toFixed(2) : Math.round(value).toLocaleString("en")}`;
}

// An element with a class and children; a string becomes a text node, so that no text is ever markup.
export function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "class") node.className = value;
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : String(value));
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export function byId(id) {
  return document.getElementById(id);
}

// Set text only where it differs, so that a screen reader is not told the same again.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
