export default { title: "In the plane", about: "", models: "points", show() {} };
