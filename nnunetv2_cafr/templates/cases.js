{% include "shared/sorting.js" %}

// Filtering of a table of cases and their cards. ?show=error&text=L4&sort=2&down=1 in the address gives a
// view to come back to. The first radio button shows all, each further one the rows from its rank on.
const table = document.getElementById("table");
const rows = Array.from(table.tBodies[0].rows);
const cards = new Map(Array.from(document.querySelectorAll(".card"), card => [card.id, card]));
const controls = document.getElementById("controls");
const rank = Object.fromEntries(Array.from(controls.elements.show, (radio, index) => [radio.value, index - 1]));

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

controls.addEventListener("input", filter);
controls.addEventListener("submit", event => event.preventDefault());
controls.elements.contours.addEventListener("input", event => {
  document.body.classList.toggle("plain", !event.target.checked);
});

const wanted = new URLSearchParams(location.search);
if (wanted.get("show") in rank) controls.elements.show.value = wanted.get("show");
if (wanted.has("text")) controls.elements.text.value = wanted.get("text");
const sorted = Number(wanted.get("sort") ?? NaN);
if (table.tHead.rows[0].cells[sorted]) sortTable(table, sorted, wanted.get("down") === "1");
filter();
document.documentElement.dataset.ready = "yes";
