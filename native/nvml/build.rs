//! Runs Cython on `_nvml.pyx`, compiles and links it into `OUT_DIR/nvdra/`, from where maturin ships it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-env-changed=PYO3_PYTHON");
    for source in [
        "_nvml.pyx",
        "fabric.pxi",
        "events.pxi",
        "functions.pxi",
        "gpu.pxi",
        "mig.pxi",
        "partition.pxi",
        "sweep.pxi",
    ] {
        println!("cargo::rerun-if-changed={source}");
    }

    let python = env::var("PYO3_PYTHON").unwrap_or_else(|_| "python3".into());
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let package = out.join("nvdra");
    // A module built for another Python would be shipped beside this one.
    let _ = fs::remove_dir_all(&package);
    fs::create_dir_all(&package).expect("OUT_DIR is writable");

    let facts = stdout(Command::new(&python).args([
        "-c",
        "import sysconfig as s; print(s.get_path('include')); print(s.get_config_var('EXT_SUFFIX'))",
    ]));
    let (include, suffix) = facts.trim().split_once('\n').expect("two lines");

    let c_file = out.join("_nvml.c");
    run(Command::new(&python)
        .args(["-m", "cython", "-3", "--module-name", "nvdra._nvml", "-o"])
        .arg(&c_file)
        .arg("_nvml.pyx"));

    let mut compile = cc::Build::new();
    compile
        .cargo_metadata(false)
        .include(include)
        .file(&c_file)
        .pic(true)
        .warnings(false)
        .opt_level(2);
    let objects = compile.compile_intermediates();
    let module = package.join(format!("_nvml{}", suffix.trim()));
    link(&compile, &objects, &module);
}

fn link(compile: &cc::Build, objects: &[PathBuf], module: &Path) {
    let mut linker = compile.get_compiler().to_command();
    linker.arg("-shared").args(objects).arg("-o").arg(module);
    linker.args(["-ldl", "-lpthread"]);
    run(&mut linker);
}

fn stdout(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|reason| panic!("{command:?}: {reason}"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn run(command: &mut Command) {
    let status = command
        .status()
        .unwrap_or_else(|reason| panic!("{command:?}: {reason}"));
    assert!(status.success(), "{command:?}: {status}");
}
