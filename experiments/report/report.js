"use strict";
for (const gallery of document.querySelectorAll(".gallery")) {
  const slider = gallery.querySelector("input[type=range]");
  if (!slider) continue;
  const show = () => {
    gallery.style.setProperty("--cut", `${slider.value}%`);
    const words = { 0: "all after", 100: "all before" };
    slider.setAttribute("aria-valuetext", words[slider.value] ?? `left ${slider.value} percent before, the rest after`);
  };
  slider.addEventListener("input", show);
  show();
}
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const falling = heading.getAttribute("aria-sort") === "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const key = (row) => row.cells[place].dataset.value ?? row.cells[place].textContent.trim();
      const absent = (text) => text === "" || text === "–";
      const compare = (one, other) => {
        const [a, b] = [key(one), key(other)];
        if (absent(a) || absent(b)) return absent(a) - absent(b);
        const order = a - b || a.localeCompare(b, undefined, { numeric: true });
        return falling ? -order : order;
      };
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
    });
  });
}
for (const region of document.querySelectorAll(".scroll")) {
  // By itself a browser is content with a corner of what is focused.
  region.addEventListener("focusin", ({ target }) => {
    if (target !== region) target.scrollIntoView({ block: "nearest", inline: "nearest" });
  });
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
