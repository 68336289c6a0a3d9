// Runs at the end of the page and leaves what it found in the document, which the browser then prints.
const found = {};
const channel = v => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
const luminance = c => { const [r, g, b] = c.match(/[\d.]+/g).map(Number).map(channel); return 0.2126*r + 0.7152*g + 0.0722*b; };
const paper = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
  if (!/, 0\)$/.test(c) && c !== "transparent") return c; } return "rgb(255, 255, 255)"; };
const contrast = e => { const [a, b] = [luminance(getComputedStyle(e).color), luminance(paper(e))].sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05); };
found.wide = document.documentElement.scrollWidth - innerWidth;
found.dark = matchMedia("(prefers-color-scheme: dark)").matches;
found.contrast = Math.min(...[...document.querySelectorAll("p, li, td, th, dd, dt, a, figcaption, h1, h2, h3, .badge")].map(contrast));
found.cards = [...document.querySelectorAll(".card")].map(c => { const badge = c.querySelector(".badge");
  return { badge: badge.textContent, colour: getComputedStyle(badge).color, bottom: c.getBoundingClientRect().bottom }; });
found.headings = [...document.querySelectorAll("h1, h2, h3")].map(h => Number(h.tagName[1]));
found.images = [...document.querySelectorAll("svg[role=img]")].map(s => [s.getAttribute("aria-label"), s.querySelector("desc").textContent]);
found.overlaps = [...document.querySelectorAll("svg")].flatMap(svg => {
  const boxes = [...svg.querySelectorAll("text")].map(t => [t.textContent, t.getBoundingClientRect()]).filter(([t]) => t.trim());
  return boxes.flatMap(([a, x], i) => boxes.slice(i + 1).filter(([, y]) => x.left < y.right - 1 && y.left < x.right - 1
    && x.top < y.bottom - 1 && y.top < x.bottom - 1).map(([b]) => a + " | " + b)); });
const button = [...document.querySelectorAll("th button")].find(b => b.textContent === "median");
const column = () => [...document.querySelectorAll("table[data-sortable] tbody tr")].map(r => Number(r.cells[3].dataset.value));
if (button) {
  button.click(); found.up = column(); button.click(); found.down = column();
  found.sorted = button.parentElement.getAttribute("aria-sort");
}
found.requests = performance.getEntriesByType("resource").length;
const out = document.createElement("script"); out.type = "application/json"; out.id = "found";
out.textContent = JSON.stringify(found); document.body.append(out);
