"use strict";
// Shows what a mark of a figure says under the pointer, saves figures, and sorts the table of trials.
(() => {
  document.documentElement.classList.add("js");

  // A browser shows a mark's title late, and only when it is hit: here the nearest one is shown at once.
  const REACH = 24;
  const tip = document.body.appendChild(document.createElement("div"));
  tip.className = "tip";
  tip.setAttribute("aria-hidden", "true");
  tip.hidden = true;

  // Where the points of a path are that draws dots, and where a mark of its own is; nothing where it is not drawn.
  const spots = (path) => [...path.getAttribute("d").matchAll(/M([-\d.]+),([-\d.]+)/g)].map(([, x, y]) => () => {
    if (!path.getBoundingClientRect().width) return null;
    const at = new DOMPoint(x, y).matrixTransform(path.getScreenCTM());
    return { x: at.x, top: at.y - 4, bottom: at.y + 4 };
  });
  const spot = (mark) => () => {
    const box = mark.getBoundingClientRect();
    return box.width ? { x: box.x + box.width / 2, top: box.top, bottom: box.bottom } : null;
  };

  for (const plot of document.querySelectorAll(".plot")) {
    const titles = [...plot.querySelectorAll(".wide title")];
    const words = titles.map((title) => title.textContent);
    const wide = titles.map((title) => spot(title.parentElement));
    const narrow = [...plot.querySelectorAll(".narrow .tipped:not(g), .narrow g.tipped > *")]
      .flatMap((mark) => mark.classList.contains("dots") ? spots(mark) : [spot(mark)]);
    for (const title of titles) {
      title.parentElement.dataset.tip = title.textContent;
      title.remove();
    }
    const point = (event) => {
      let best = null;
      let least = REACH;
      for (const drawn of [wide, narrow]) {
        drawn.forEach((find, index) => {
          const place = find();
          if (!place) return;
          const away = Math.hypot(event.clientX - place.x, event.clientY - (place.top + place.bottom) / 2);
          if (away <= least) [best, least] = [{ ...place, said: words[index] }, away];
        });
      }
      tip.hidden = !best;
      if (!best) return;
      tip.textContent = best.said;
      const left = best.x - tip.offsetWidth / 2;
      tip.style.left = `${Math.max(4, Math.min(left, document.documentElement.clientWidth - tip.offsetWidth - 4))}px`;
      tip.style.top = `${best.top > tip.offsetHeight + 12 ? best.top - tip.offsetHeight - 8 : best.bottom + 8}px`;
    };
    plot.addEventListener("pointermove", point);
    plot.addEventListener("pointerdown", point);
    plot.addEventListener("pointerleave", () => { tip.hidden = true; });
  }
  document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

  // A figure as it is seen: other programs do not know the page's colours, so they are written into it.
  function standalone(plot) {
    const svg = plot.querySelector(".wide");
    const style = getComputedStyle(svg);
    const copy = svg.cloneNode(true);
    copy.removeAttribute("aria-hidden");
    const said = document.createElementNS(copy.namespaceURI, "desc");
    said.textContent = plot.getAttribute("aria-label");
    copy.prepend(said);
    for (const mark of copy.querySelectorAll("[data-tip]")) {
      const title = document.createElementNS(copy.namespaceURI, "title");
      title.textContent = mark.dataset.tip;
      mark.append(title);
      mark.removeAttribute("data-tip");
    }
    const paper = document.createElementNS(copy.namespaceURI, "rect");
    paper.setAttribute("width", "100%");
    paper.setAttribute("height", "100%");
    paper.setAttribute("fill", "var(--paper)");
    said.after(paper);
    copy.setAttribute("font-family", style.fontFamily);
    const text = new XMLSerializer().serializeToString(copy);
    return text.replace(/var\((--[\w-]+)\)/g, (_, name) => style.getPropertyValue(name).trim());
  }

  for (const button of document.querySelectorAll("button.save")) {
    button.addEventListener("click", () => {
      const plot = button.closest("figure").querySelector(".plot");
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([standalone(plot)], { type: "image/svg+xml" }));
      link.download = `${button.dataset.name}.svg`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
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
