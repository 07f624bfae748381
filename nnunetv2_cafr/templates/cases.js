"use strict";
// Sorting and filtering of a table of cases and their cards. ?show=error&text=L4&sort=2&down=1 in the address gives a
// view to come back to. The first radio button shows all, each further one the rows from its rank on.
const table = document.getElementById("table");
const body = table.tBodies[0];
const rows = Array.from(body.rows);
const cards = new Map(Array.from(document.querySelectorAll(".card"), card => [card.id, card]));
const headings = Array.from(table.tHead.rows[0].cells);
const controls = document.getElementById("controls");
const rank = Object.fromEntries(Array.from(controls.elements.show, (radio, index) => [radio.value, index - 1]));

function sortBy(column, down) {
  const key = row => row.cells[column].dataset.key ?? row.cells[column].textContent;
  rows.sort((a, b) => {
    const [first, second] = [key(a), key(b)];
    if (first === "" || second === "") return (first === "") - (second === ""); // what is missing comes last
    const difference = Number(first) - Number(second);
    const order = Number.isNaN(difference) ? first.localeCompare(second, "en", { numeric: true }) : difference;
    return down ? -order : order;
  });
  body.append(...rows);
  headings.forEach((heading, index) => {
    if (index === column) heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    else heading.removeAttribute("aria-sort");
  });
}

function filter() {
  const least = rank[controls.elements.show.value];
  const text = controls.elements.text.value.trim().toLowerCase();
  let shown = 0;
  for (const row of rows) {
    const visible = Number(row.dataset.worst) >= least && row.textContent.toLowerCase().includes(text);
    row.hidden = !visible;
    cards.get(row.dataset.card).hidden = !visible;
    shown += visible;
  }
  document.getElementById("shown").value = `${shown} of ${rows.length} ${table.dataset.unit} shown`;
}

headings.forEach((heading, index) => {
  const button = heading.querySelector("button");
  button.addEventListener("click", () => {
    const first = heading.classList.contains("number") ? "descending" : "ascending";
    const current = heading.getAttribute("aria-sort");
    sortBy(index, current === null ? first === "descending" : current === "ascending");
  });
});
controls.addEventListener("input", filter);
controls.addEventListener("submit", event => event.preventDefault());
controls.elements.contours.addEventListener("input", event => {
  document.body.classList.toggle("plain", !event.target.checked);
});

const wanted = new URLSearchParams(location.search);
if (wanted.get("show") in rank) controls.elements.show.value = wanted.get("show");
if (wanted.has("text")) controls.elements.text.value = wanted.get("text");
if (headings[Number(wanted.get("sort") ?? NaN)]) sortBy(Number(wanted.get("sort")), wanted.get("down") === "1");
filter();
document.documentElement.dataset.ready = "yes";
