//! CDI documents as text: YAML in block style, four spaces a level, the key order of the CDI libraries; or JSON.
//!
//! Zero values are left out. Rendering is in pieces, so that a part which does not change can be rendered once.

use std::fmt::Write;

use crate::json;
use crate::yaml::write_text;

#[derive(Debug, Clone, Default)]
pub struct DeviceNode<'a> {
    pub path: &'a str,
    pub host_path: &'a str,
    pub kind: &'a str,
    pub major: i64,
    pub minor: i64,
    pub file_mode: u32,
    pub permissions: &'a str,
    pub gid: u32,
}

#[derive(Debug, Clone, Default)]
pub struct Mount<'a> {
    pub host_path: &'a str,
    pub container_path: &'a str,
    pub options: Vec<&'a str>,
    pub kind: &'a str,
}

#[derive(Debug, Clone, Default)]
pub struct Hook<'a> {
    pub name: &'a str,
    pub path: &'a str,
    pub args: Vec<&'a str>,
    pub env: Vec<&'a str>,
}

#[derive(Debug, Clone, Default)]
pub struct Edits<'a> {
    pub env: Vec<&'a str>,
    pub device_nodes: Vec<DeviceNode<'a>>,
    pub hooks: Vec<Hook<'a>>,
    pub mounts: Vec<Mount<'a>>,
    pub additional_gids: Vec<u32>,
}

#[derive(Debug, Clone, Default)]
pub struct Document<'a> {
    pub version: &'a str,
    pub kind: &'a str,
    pub devices: Vec<(&'a str, Edits<'a>)>,
    pub edits: Edits<'a>,
}

/// `containerEdits` as a YAML member, indented by `indent` spaces and ended by a line break; nothing for empty edits.
#[must_use]
pub fn edits_yaml(edits: &Edits<'_>, indent: usize) -> String {
    let mut out = String::with_capacity(
        64 + 300 * (edits.mounts.len() + edits.device_nodes.len() + edits.hooks.len()),
    );
    Yaml { out: &mut out }.edits(edits, indent);
    out
}

/// The lines in front of the devices.
#[must_use]
pub fn head_yaml(version: &str, kind: &str) -> String {
    let mut out = String::from("---\n");
    let mut yaml = Yaml { out: &mut out };
    yaml.text(0, "cdiVersion", version);
    yaml.text(0, "kind", kind);
    out.push_str("devices:\n");
    out
}

/// The line that opens a device.
#[must_use]
pub fn device_yaml(name: &str) -> String {
    let mut out = String::from("    - name: ");
    write_text(&mut out, name);
    out.push('\n');
    out
}

/// The whole document.
#[must_use]
pub fn render_yaml(document: &Document<'_>) -> String {
    let mut out = head_yaml(document.version, document.kind);
    for (name, edits) in &document.devices {
        out.push_str(&device_yaml(name));
        Yaml { out: &mut out }.edits(edits, 6);
    }
    Yaml { out: &mut out }.edits(&document.edits, 0);
    out
}

/// Where the members of a key stand: at the next multiple of four. A key in a list item stands two behind its dash.
fn deeper(indent: usize) -> usize {
    (indent / 4 + 1) * 4
}

struct Yaml<'o> {
    out: &'o mut String,
}

impl Yaml<'_> {
    fn indent(&mut self, indent: usize) {
        const SPACES: &str = "                                ";
        self.out.push_str(&SPACES[..indent.min(SPACES.len())]);
    }

    fn key(&mut self, indent: usize, key: &str) {
        self.indent(indent);
        self.out.push_str(key);
        self.out.push(':');
    }

    fn text(&mut self, indent: usize, key: &str, text: &str) {
        self.key(indent, key);
        self.out.push(' ');
        write_text(self.out, text);
        self.out.push('\n');
    }

    fn text_if(&mut self, indent: usize, key: &str, text: &str) {
        if !text.is_empty() {
            self.text(indent, key, text);
        }
    }

    fn number_if(&mut self, indent: usize, key: &str, number: i64) {
        if number != 0 {
            self.key(indent, key);
            let _ = writeln!(self.out, " {number}");
        }
    }

    fn texts_if(&mut self, indent: usize, key: &str, texts: &[&str]) {
        if texts.is_empty() {
            return;
        }
        self.key(indent, key);
        self.out.push('\n');
        for text in texts {
            self.indent(deeper(indent));
            self.out.push_str("- ");
            write_text(self.out, text);
            self.out.push('\n');
        }
    }

    /// Opens a list item: its first member's key stands behind the dash.
    fn first(&mut self, indent: usize, key: &str, text: &str) {
        self.indent(indent);
        self.out.push_str("- ");
        self.text(0, key, text);
    }

    fn edits(&mut self, edits: &Edits<'_>, indent: usize) {
        if edits.env.is_empty()
            && edits.device_nodes.is_empty()
            && edits.hooks.is_empty()
            && edits.mounts.is_empty()
            && edits.additional_gids.is_empty()
        {
            return;
        }
        self.key(indent, "containerEdits");
        self.out.push('\n');
        let inner = deeper(indent);
        let item = deeper(inner);
        let member = item + 2;
        self.texts_if(inner, "env", &edits.env);
        if !edits.device_nodes.is_empty() {
            self.key(inner, "deviceNodes");
            self.out.push('\n');
            for node in &edits.device_nodes {
                self.first(item, "path", node.path);
                self.text_if(member, "hostPath", node.host_path);
                self.text_if(member, "type", node.kind);
                self.number_if(member, "major", node.major);
                self.number_if(member, "minor", node.minor);
                self.number_if(member, "fileMode", node.file_mode.into());
                self.text_if(member, "permissions", node.permissions);
                self.number_if(member, "gid", node.gid.into());
            }
        }
        if !edits.hooks.is_empty() {
            self.key(inner, "hooks");
            self.out.push('\n');
            for hook in &edits.hooks {
                self.first(item, "hookName", hook.name);
                self.text(member, "path", hook.path);
                self.texts_if(member, "args", &hook.args);
                self.texts_if(member, "env", &hook.env);
            }
        }
        if !edits.mounts.is_empty() {
            self.key(inner, "mounts");
            self.out.push('\n');
            for mount in &edits.mounts {
                self.first(item, "hostPath", mount.host_path);
                self.text(member, "containerPath", mount.container_path);
                self.texts_if(member, "options", &mount.options);
                self.text_if(member, "type", mount.kind);
            }
        }
        if !edits.additional_gids.is_empty() {
            self.key(inner, "additionalGids");
            self.out.push('\n');
            for gid in &edits.additional_gids {
                self.indent(item);
                let _ = writeln!(self.out, "- {gid}");
            }
        }
    }
}

/// The whole document as compact JSON.
#[must_use]
pub fn render_json(document: &Document<'_>) -> String {
    let mut out = String::new();
    let mut json = Json {
        out: &mut out,
        is_first: true,
    };
    json.open('{');
    json.text("cdiVersion", document.version);
    json.text("kind", document.kind);
    json.key("devices");
    json.open('[');
    for (name, edits) in &document.devices {
        json.item();
        json.open('{');
        json.text("name", name);
        json.edits(edits);
        json.close('}');
    }
    json.close(']');
    json.edits(&document.edits);
    json.close('}');
    out
}

struct Json<'o> {
    out: &'o mut String,
    is_first: bool,
}

impl Json<'_> {
    fn open(&mut self, bracket: char) {
        self.out.push(bracket);
        self.is_first = true;
    }

    fn close(&mut self, bracket: char) {
        self.out.push(bracket);
        self.is_first = false;
    }

    fn item(&mut self) {
        if !self.is_first {
            self.out.push(',');
        }
        self.is_first = false;
    }

    fn key(&mut self, key: &str) {
        self.item();
        json::write_text(self.out, key);
        self.out.push(':');
    }

    fn text(&mut self, key: &str, text: &str) {
        self.key(key);
        json::write_text(self.out, text);
    }

    fn text_if(&mut self, key: &str, text: &str) {
        if !text.is_empty() {
            self.text(key, text);
        }
    }

    fn number_if(&mut self, key: &str, number: i64) {
        if number != 0 {
            self.key(key);
            let _ = write!(self.out, "{number}");
        }
    }

    fn texts_if(&mut self, key: &str, texts: &[&str]) {
        if texts.is_empty() {
            return;
        }
        self.key(key);
        self.open('[');
        for text in texts {
            self.item();
            json::write_text(self.out, text);
        }
        self.close(']');
    }

    fn list_if<T>(&mut self, key: &str, items: &[T], write: impl Fn(&mut Self, &T)) {
        if items.is_empty() {
            return;
        }
        self.key(key);
        self.open('[');
        for item in items {
            self.item();
            write(self, item);
        }
        self.close(']');
    }

    fn edits(&mut self, edits: &Edits<'_>) {
        self.key("containerEdits");
        self.open('{');
        self.texts_if("env", &edits.env);
        self.list_if("deviceNodes", &edits.device_nodes, |json, node| {
            json.open('{');
            json.text("path", node.path);
            json.text_if("hostPath", node.host_path);
            json.text_if("type", node.kind);
            json.number_if("major", node.major);
            json.number_if("minor", node.minor);
            json.number_if("fileMode", node.file_mode.into());
            json.text_if("permissions", node.permissions);
            json.number_if("gid", node.gid.into());
            json.close('}');
        });
        self.list_if("hooks", &edits.hooks, |json, hook| {
            json.open('{');
            json.text("hookName", hook.name);
            json.text("path", hook.path);
            json.texts_if("args", &hook.args);
            json.texts_if("env", &hook.env);
            json.close('}');
        });
        self.list_if("mounts", &edits.mounts, |json, mount| {
            json.open('{');
            json.text("hostPath", mount.host_path);
            json.text("containerPath", mount.container_path);
            json.texts_if("options", &mount.options);
            json.text_if("type", mount.kind);
            json.close('}');
        });
        self.list_if("additionalGids", &edits.additional_gids, |json, gid| {
            let _ = write!(json.out, "{gid}");
        });
        self.close('}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_document() {
        let node = DeviceNode {
            path: "/dev/nvidia0",
            host_path: "/h/dev/nvidia0",
            major: 195,
            file_mode: 438,
            permissions: "rwm",
            ..DeviceNode::default()
        };
        let hook = Hook {
            name: "createContainer",
            path: "/hook",
            args: vec!["hook", "x"],
            env: vec!["A=b"],
        };
        let mount = Mount {
            host_path: "/a",
            container_path: "/b",
            options: vec!["ro"],
            kind: "",
        };
        let device = Edits {
            device_nodes: vec![node],
            additional_gids: vec![44],
            ..Edits::default()
        };
        let common = Edits {
            env: vec!["X=1"],
            hooks: vec![hook],
            mounts: vec![mount],
            ..Edits::default()
        };
        let document = Document {
            version: "0.7.0",
            kind: "v/c",
            devices: vec![("u-gpu-0", device)],
            edits: common,
        };
        assert_eq!(
            render_yaml(&document),
            "---
cdiVersion: 0.7.0
kind: v/c
devices:
    - name: u-gpu-0
      containerEdits:
        deviceNodes:
            - path: /dev/nvidia0
              hostPath: /h/dev/nvidia0
              major: 195
              fileMode: 438
              permissions: rwm
        additionalGids:
            - 44
containerEdits:
    env:
        - X=1
    hooks:
        - hookName: createContainer
          path: /hook
          args:
            - hook
            - x
          env:
            - A=b
    mounts:
        - hostPath: /a
          containerPath: /b
          options:
            - ro
"
        );
        assert_eq!(
            render_json(&document),
            concat!(
                r#"{"cdiVersion":"0.7.0","kind":"v/c","devices":[{"name":"u-gpu-0","containerEdits":{"deviceNodes":[{"path":"/dev/nvidia0","hostPath":"/h/dev/nvidia0","#,
                r#""major":195,"fileMode":438,"permissions":"rwm"}],"additionalGids":[44]}}],"containerEdits":{"env":["X=1"],"hooks":[{"hookName":"createContainer","path":"/hook","#,
                r#""args":["hook","x"],"env":["A=b"]}],"mounts":[{"hostPath":"/a","containerPath":"/b","options":["ro"]}]}}"#
            )
        );
    }
}
