"use strict";
// Draws the figures in the reader's theme and width, saves them, and sorts the table of trials.
(() => {
  const { charts, themes } = JSON.parse(document.getElementById("data").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const views = {};

  // A copy of a chart at this width. Panels of a concatenation stand side by side as far as there is room.
  function fitted(chart, width) {
    const spec = structuredClone(chart);
    if (!spec.concat) return { ...spec, width };
    spec.columns = width >= 840 ? 4 : width >= 420 ? 2 : 1;
    const padding = 10;
    const each = Math.floor((width - padding - spec.spacing * (spec.columns - 1)) / spec.columns);
    for (const panel of spec.concat) panel.width = each;
    return spec;
  }

  async function draw(key) {
    const box = document.getElementById("figure-" + key);
    const theme = dark.matches ? "dark" : "light";
    if (views[key]) views[key].finalize();
    views[key] = await vegaEmbed(box, fitted(charts[key], box.clientWidth), {
      actions: false, renderer: "svg", config: themes[theme], tooltip: { theme },
    });
  }

  // One drawing at a time; a change during one is answered by another after it. Where drawing fails, the static picture
  // comes back.
  let drawing = false;
  let stale = false;
  async function drawAll() {
    stale = true;
    if (drawing) return;
    drawing = true;
    document.documentElement.classList.add("js");
    try {
      while (stale) {
        stale = false;
        for (const key of Object.keys(charts)) await draw(key);
      }
    } catch (error) {
      document.documentElement.classList.remove("js");
      console.error(error);
    }
    drawing = false;
  }

  const main = document.querySelector("main");
  let width = main.clientWidth;
  new ResizeObserver(() => {
    if (main.clientWidth === width) return;
    width = main.clientWidth;
    drawAll();
  }).observe(main);
  dark.addEventListener("change", drawAll);
  drawAll();

  for (const button of document.querySelectorAll("[data-save]")) {
    button.addEventListener("click", async () => {
      const { save, figure } = button.dataset;
      const link = document.createElement("a");
      link.href = await views[figure].view.toImageURL(save, 2);
      link.download = `${figure}.${save}`;
      link.click();
    });
  }

  function compare(a, b, down) {
    if (a === "" || b === "") return (a === "") - (b === "");
    const order = isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
    return down ? -order : order;
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const other of heads) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const key = (row) => row.cells[column].dataset.key;
        const rows = [...table.tBodies[0].rows].sort((a, b) => compare(key(a), key(b), down));
        table.tBodies[0].append(...rows);
      });
    });
  }
})();
