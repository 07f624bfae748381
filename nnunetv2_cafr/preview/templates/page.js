{% include "shared/cases.js" %}
