"use strict";
// Sorts the rows of a table within their groups, so that arms of different families never form one ranking.
function sortTable(table, column, down) {
  const key = row => row.cells[column].dataset.key ?? row.cells[column].textContent;
  for (const body of table.tBodies) {
    const rows = Array.from(body.querySelectorAll("tr:not(.group)"));
    rows.sort((a, b) => {
      const [first, second] = [key(a), key(b)];
      if (first === "" || second === "") return (first === "") - (second === ""); // what is missing comes last
      const difference = Number(first) - Number(second);
      const order = Number.isNaN(difference) ? first.localeCompare(second, "en", { numeric: true }) : difference;
      return down ? -order : order;
    });
    body.append(...rows);
  }
  Array.from(table.tHead.rows[0].cells).forEach((heading, index) => {
    if (index === column) heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    else heading.removeAttribute("aria-sort");
  });
}

for (const table of document.querySelectorAll("table.sortable")) {
  Array.from(table.tHead.rows[0].cells).forEach((heading, index) => {
    heading.querySelector("button").addEventListener("click", () => {
      const current = heading.getAttribute("aria-sort");
      const first = heading.classList.contains("number");
      sortTable(table, index, current === null ? first : current === "ascending");
    });
  });
}
