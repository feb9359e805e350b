"use strict";
// The page is complete without this: it only turns datasets into tabs, heads into sort buttons, and families into filters.
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

const sections = all("main > section");
const links = all("nav a");

function show(id) {
  const chosen = sections.find((section) => section.id === id) ?? sections[0];
  for (const section of sections) section.hidden = section !== chosen;
  for (const link of links) {
    if (link.getAttribute("href") === "#" + encodeURIComponent(chosen.id)) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

// Tables that are wider than their place say so until they were scrolled to their end.
const frames = all(".frame");

function hint() {
  for (const frame of frames) {
    const scroll = frame.querySelector(".scroll");
    frame.classList.toggle("more", scroll.scrollWidth > scroll.clientWidth + 1);
    frame.classList.toggle("scrolled", scroll.scrollLeft + scroll.clientWidth > scroll.scrollWidth - 2);
  }
}

for (const frame of frames) frame.querySelector(".scroll").addEventListener("scroll", hint, { passive: true });
addEventListener("resize", hint);

const fromAddress = () => {
  show(decodeURIComponent(location.hash.slice(1)));
  hint(); // what was hidden had no width
};
addEventListener("hashchange", fromAddress);
fromAddress();

function compare(a, b, falling) {
  if (a === "" || b === "") return (a === "") - (b === ""); // nothing to sort by: last, whichever the order
  const numeric = !Number.isNaN(Number(a)) && !Number.isNaN(Number(b));
  const order = numeric ? Number(a) - Number(b) : a.localeCompare(b);
  return falling ? -order : order;
}

function sort(table, head, column) {
  const before = head.getAttribute("aria-sort");
  const falling = before ? before === "ascending" : head.dataset.falling === "true";
  for (const other of all("th[data-falling]", table)) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", falling ? "descending" : "ascending");
  const body = table.tBodies[0];
  const rows = all("tr", body);
  const value = (row) => row.cells[column]?.dataset.value ?? "";
  rows.sort((a, b) => compare(value(a), value(b), falling));
  body.append(...rows);
  for (const row of rows) [...row.cells].forEach((cell, index) => cell.classList.toggle("on", index === column));
}

for (const table of all("table.sortable")) {
  all("th[data-falling]", table).forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sort(table, head, column));
  });
}

for (const form of all("fieldset")) {
  form.hidden = false;
  form.addEventListener("change", () => {
    const shown = new Set(all("input:checked", form).map((input) => input.value));
    for (const element of all("[data-family]", form.closest("section"))) {
      const hidden = !shown.has(element.dataset.family);
      if (element instanceof SVGElement) element.style.display = hidden ? "none" : "";
      else element.hidden = hidden;
    }
  });
}
