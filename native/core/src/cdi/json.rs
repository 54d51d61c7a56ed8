//! A document as compact JSON.

use std::fmt::Write;

use super::{Document, Edits};
use crate::json;

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
