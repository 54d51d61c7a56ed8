//! CDI documents as text: YAML in block style, four spaces a level, the key order of the CDI libraries; or JSON.
//!
//! Zero values are omitted. Documents are rendered in pieces, so that a constant part is rendered only once.

mod json;
mod yaml;

pub use json::render_json;
pub use yaml::{device_yaml, edits_yaml, head_yaml, render_yaml};

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
