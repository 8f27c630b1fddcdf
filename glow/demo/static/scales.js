export default { title: "Scales", about: "", models: "images", show() {} };
