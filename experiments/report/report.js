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
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
