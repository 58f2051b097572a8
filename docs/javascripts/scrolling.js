// What is wider than the page is scrolled in its own box: by the keyboard, too. The theme puts tables into boxes later.
const BOXES = ".md-typeset pre > code, .md-typeset table:not([class]), .md-typeset__scrollwrap";
const reachable = () => {
  for (const box of document.querySelectorAll(BOXES)) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
};
new ResizeObserver(reachable).observe(document.body);
new MutationObserver(reachable).observe(document.body, { childList: true, subtree: true });
