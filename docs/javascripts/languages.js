// The links to the other language lead to the same page there: both sites have the same places.
const home = (link) => link.href.replace(/index\.html$/, "");
const languages = [...document.querySelectorAll("a[hreflang]")].map((link) => [link, home(link)]);
const here = languages.find(([link]) => link.hreflang === document.documentElement.lang);
const page = here && location.href.startsWith(here[1]) ? location.href.slice(here[1].length).replace(/#.*/, "") : "";
for (const [link, start] of languages) {
  link.href = start + (page || "index.html");
}
