//! A document in YAML's block style.

use std::fmt::Write;

use super::{Document, Edits};
use crate::scalar::write_text;

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

/// The indent of a key's members: the next multiple of four. A key in a list item is two columns right of its dash.
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

    /// Opens a list item: its first member's key follows the dash.
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
