// Which forecast stands beside a regret, and what it says.

import { signed } from "./format.js";

const MOST = 6; // named before there is a regret, by which one of them is chosen

/** The forecast of the LoRA that the last point is of; before there is one, of the only LoRA. */
export function forecastOf(run) {
  const all = run.forecast?.of ?? [];
  const method = (run.regret ?? []).at(-1)?.method;
  if (method === undefined) return all.length === 1 ? all[0] : null;
  return all.find((one) => one.method === method) ?? null;
}

/** Every forecast is named: that of the last point's LoRA, or before there is one all of them. */
export function forecastWords(run) {
  const all = run.forecast?.of ?? [];
  const chosen = forecastOf(run);
  if (chosen) return words(chosen, run.forecast);
  const method = (run.regret ?? []).at(-1)?.method;
  if (!all.length) return "";
  if (method !== undefined) return `Of ${method} nothing was forecast.`;
  const more = all.length > MOST ? ` And of ${all.length - MOST} more.` : "";
  return all.slice(0, MOST).map((one) => words(one, run.forecast)).join(" ") + more;
}

function words(one, { step }) {
  const said = `Forecast of ${one.method}`;
  if (!one.share) return `${said}: nothing is forecast, for the bank has too little that is like this case.`;
  const source = step ? `by pilots of ${step} steps` : "before any training";
  if (one.regret === undefined) {
    const [share, low, high] = one.share.map(percent);
    return `${said}, ${source}: ${share} of what full fine-tuning learns (${low} to ${high}).`;
  }
  return `${said}, ${source}: ${signed(one.regret)} nats (${signed(one.low)} to ${signed(one.high)}).`;
}

function percent(value) {
  const size = Math.abs(100 * value).toFixed(1);
  return `${value < 0 ? "−" : "+"}${size} %`;
}
