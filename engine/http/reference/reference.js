// Shows openapi.json for people. Everything is written by textContent; nothing comes from another host.

const routes = document.getElementById("routes");
const fault = document.getElementById("fault");
const form = document.getElementById("token-form");

function element(name, text = "", ...children) {
  const made = document.createElement(name);
  made.textContent = text;
  made.append(...children);
  return made;
}

function bounds(schema) {
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  const parts = [schema.type ?? "any"];
  if (schema.enum) parts.push(`one of ${schema.enum.join(", ")}`);
  if (schema.minimum !== undefined) parts.push(`from ${schema.minimum}`);
  if (schema.maximum !== undefined) parts.push(`to ${schema.maximum}`);
  if (schema.default !== undefined) parts.push(`default ${schema.default}`);
  return parts.join(", ");
}

function table(headings, rows) {
  const head = element("tr", "", ...headings.map((text) => element("th", text)));
  const body = rows.map((cells) => element("tr", "", ...cells.map((text) => element("td", text))));
  return element("table", "", element("thead", "", head), element("tbody", "", ...body));
}

function code(value) {
  const text = typeof value === "string" ? value : JSON.stringify(value, null, 2);
  return element("pre", text);
}

function exampleOf(content) {
  const media = Object.values(content ?? {})[0];
  return Object.values(media?.examples ?? {})[0]?.value;
}

function operation(method, path, described) {
  const title = element("summary", "", element("span", method.toUpperCase()), element("code", path));
  title.firstChild.className = "method";
  title.append(` ${described.summary ?? ""}`);
  const shown = element("details", "", title);
  if (described.description) shown.append(element("p", described.description));
  if (described.parameters?.length) {
    const rows = described.parameters.map((one) => [one.name, one.in, bounds(one.schema ?? {}), one.description ?? ""]);
    shown.append(element("h4", "Parameters"), table(["name", "in", "values", "meaning"], rows));
  }
  const question = exampleOf(described.requestBody?.content);
  if (question !== undefined) shown.append(element("h4", "Body"), code(question));
  const answers = Object.entries(described.responses ?? {});
  shown.append(element("h4", "Answers"));
  shown.append(table(["status", "meaning"], answers.map(([status, one]) => [status, one.description ?? ""])));
  const answer = exampleOf(described.responses?.["200"]?.content);
  if (answer !== undefined) shown.append(code(answer));
  return shown;
}

function show(api) {
  document.getElementById("title").textContent = `${api.info.title} API ${api.info.version}`;
  document.getElementById("description").textContent = api.info.description ?? "";
  const sections = new Map();
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, described] of Object.entries(methods)) {
      if (!described.responses) continue;
      const tag = described.tags?.[0] ?? "other";
      if (!sections.has(tag)) sections.set(tag, element("section", "", element("h2", tag)));
      sections.get(tag).append(operation(method, path, described));
    }
  }
  routes.replaceChildren(...sections.values());
}

async function load(token = "") {
  fault.textContent = "";
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const response = await fetch("schema/openapi.json", { headers });
  form.hidden = response.status !== 401;
  if (response.ok) show(await response.json());
  else if (response.status !== 401) fault.textContent = `The description cannot be read: status ${response.status}.`;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  load(document.getElementById("token").value);
});
load().catch(() => {
  fault.textContent = "The description cannot be read.";
});
