//! Where ONNX Runtime's library may be. Nothing is loaded here.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs, iter};

/// Names a library file.
pub(super) const VARIABLE: &str = "ORT_DYLIB_PATH";
/// Where pip puts the library, from `site-packages`.
const CAPI: &str = "onnxruntime/capi";
/// Prints the folder of the Python package. The current folder is no place to take a library from.
const FIND: &str = "import sys; sys.path = [p for p in sys.path if p]; import importlib.util as u; \
                    s = u.find_spec('onnxruntime'); print(s.submodule_search_locations[0] if s else '')";

/// A place that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// In words.
    pub name: String,
    /// The libraries there, the best one first.
    pub libraries: Vec<PathBuf>,
    /// The user has named it: no other will do.
    pub named: bool,
}

/// What discovery knows of the process and the machine.
pub(super) trait Machine {
    /// An environment variable that is not empty.
    fn var(&self, name: &str) -> Option<OsString>;
    /// The running program.
    fn executable(&self) -> Option<PathBuf>;
    /// What a command prints.
    fn output(&self, program: &str, arguments: &[&str]) -> Option<String>;
}

/// The machine that this runs on.
pub(super) struct Here;

impl Machine for Here {
    fn var(&self, name: &str) -> Option<OsString> {
        env::var_os(name).filter(|value| !value.is_empty())
    }

    fn executable(&self) -> Option<PathBuf> {
        env::current_exe().ok()
    }

    fn output(&self, program: &str, arguments: &[&str]) -> Option<String> {
        let mut command = Command::new(program);
        let done = command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
        done.status.success().then(|| String::from_utf8_lossy(&done.stdout).into_owned())
    }
}

/// All places in the order in which they count. Each is looked at only when it is asked for: some start a program. What the
/// user has named is the only place.
pub(super) fn places<'m>(given: Option<&Path>, machine: &'m dyn Machine) -> Box<dyn Iterator<Item = Place> + 'm> {
    let named =
        |name: String, path: &Path| Box::new(iter::once(Place { name, libraries: named_library(path), named: true }));
    if let Some(path) = given {
        return named(path.display().to_string(), path);
    }
    if let Some(value) = machine.var(VARIABLE) {
        let path = PathBuf::from(value);
        return named(format!("{VARIABLE}={}", path.display()), &path);
    }
    type Look = fn(&dyn Machine) -> Place;
    let all: [Look; 6] =
        [beside, prefix, |m| environment(m, "VIRTUAL_ENV"), |m| environment(m, "CONDA_PREFIX"), python, system];
    Box::new(all.into_iter().map(move |look| look(machine)))
}

/// A file; the libraries in a folder; a bare name as it is, for the system to find.
fn named_library(path: &Path) -> Vec<PathBuf> {
    if path.is_dir() {
        return libraries(path);
    }
    let bare = path.components().count() == 1 && !path.exists();
    vec![if bare { path.to_owned() } else { path.canonicalize().unwrap_or_else(|_| path.to_owned()) }]
}

fn place(name: impl Into<String>, libraries: Vec<PathBuf>) -> Place {
    Place { name: name.into(), libraries, named: false }
}

fn beside(machine: &dyn Machine) -> Place {
    let folder = machine.executable().and_then(|exe| exe.parent().map(Path::to_owned));
    let found = folder.as_deref().map(libraries).unwrap_or_default();
    let shown = folder.map_or(String::new(), |f| format!(" ({})", f.display()));
    place(format!("beside the executable{shown}"), found)
}

/// The Python environment that the program was installed into, if it was installed into one.
fn prefix(machine: &dyn Machine) -> Place {
    let exe = machine.executable();
    match exe.as_deref().and_then(Path::parent).and_then(Path::parent) {
        Some(root) => place(format!("the Python packages under {}", root.display()), in_environment(root)),
        None => place("the Python packages around the executable", Vec::new()),
    }
}

fn environment(machine: &dyn Machine, variable: &str) -> Place {
    match machine.var(variable).map(PathBuf::from) {
        Some(root) => place(format!("{variable}={}", root.display()), in_environment(&root)),
        None => place(format!("{variable} (not set)"), Vec::new()),
    }
}

fn python(machine: &dyn Machine) -> Place {
    for program in ["python3", "python"] {
        if let Some(text) = machine.output(program, &["-c", FIND]) {
            let folder = text.lines().last().unwrap_or_default().trim();
            let found = if folder.is_empty() { Vec::new() } else { libraries(&Path::new(folder).join("capi")) };
            return place(format!("the packages of {program}"), found);
        }
    }
    place("the packages of python3 (not found)", Vec::new())
}

fn system(machine: &dyn Machine) -> Place {
    let mut found = BTreeSet::new();
    for variable in ["LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"] {
        let folders = machine.var(variable);
        let folders = folders.iter().flat_map(env::split_paths).filter(|folder| folder.is_absolute());
        found.extend(folders.flat_map(|folder| libraries(&folder)));
    }
    let mut found: Vec<PathBuf> = found.into_iter().collect();
    let listed = ["ldconfig", "/sbin/ldconfig"].iter().find_map(|program| machine.output(program, &["-p"]));
    let listed = listed.iter().flat_map(|text| text.lines()).filter_map(|line| line.split_once("=> "));
    found.extend(listed.map(|(_, path)| PathBuf::from(path.trim())).filter(|path| is_library(path)));
    for folder in ["/opt/homebrew/lib", "/usr/local/lib"] {
        found.extend(libraries(Path::new(folder)).into_iter().filter(|_| cfg!(target_os = "macos")));
    }
    place("the system's library path", found)
}

/// The library that pip installed under a prefix: `lib/python3*/site-packages`, on Windows `Lib/site-packages`.
fn in_environment(root: &Path) -> Vec<PathBuf> {
    let mut found = libraries(&root.join("Lib/site-packages").join(CAPI));
    for lib in ["lib", "lib64"] {
        let versions = entries(&root.join(lib)).into_iter();
        let versions = versions.filter(|path| file_name(path).starts_with("python3"));
        found.extend(versions.flat_map(|python| libraries(&python.join("site-packages").join(CAPI))));
    }
    // lib64 is often a link to lib.
    let mut seen = BTreeSet::new();
    found.retain(|path| seen.insert(path.canonicalize().unwrap_or_else(|_| path.clone())));
    found
}

/// The files of a folder that are named like the library.
fn libraries(folder: &Path) -> Vec<PathBuf> {
    entries(folder).into_iter().filter(|path| is_library(path)).collect()
}

/// In the order of their names.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths
}

fn file_name(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

/// `libonnxruntime.so.1.32.0`, `libonnxruntime.1.32.0.dylib`, `onnxruntime.dll`; not the providers beside it.
fn is_library(path: &Path) -> bool {
    let name = file_name(path);
    let Some(rest) = name.strip_prefix(env::consts::DLL_PREFIX).and_then(|n| n.strip_prefix("onnxruntime")) else {
        return false;
    };
    let suffix = env::consts::DLL_SUFFIX;
    let versioned = |v: &str| v.chars().all(|c| c.is_ascii_digit() || c == '.');
    rest.split_once(suffix).is_some_and(|(before, after)| versioned(before) && versioned(after))
}

/// The version that the library's file name, or what pip wrote down about the package around it, tells.
pub(super) fn version(library: &Path) -> Option<String> {
    let path = library.canonicalize().unwrap_or_else(|_| library.to_owned());
    let name = file_name(&path);
    let digits = name.trim_matches(|c: char| !c.is_ascii_digit());
    // `libonnxruntime.so.1` names the interface, not the version.
    if digits.split('.').count() > 2 && digits.split('.').all(|part| part.parse::<u32>().is_ok()) {
        return Some(digits.to_owned());
    }
    let packages = path.parent().filter(|p| p.ends_with(CAPI))?.parent()?.parent()?;
    entries(packages).iter().find_map(|entry| {
        let name = file_name(entry);
        let (package, version) = name.strip_suffix(".dist-info")?.split_once('-')?;
        package.starts_with("onnxruntime").then(|| version.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// A machine with nothing but what a test says.
    #[derive(Default)]
    struct Imagined {
        vars: HashMap<&'static str, OsString>,
        exe: Option<PathBuf>,
        outputs: HashMap<&'static str, String>,
    }

    impl Machine for Imagined {
        fn var(&self, name: &str) -> Option<OsString> {
            self.vars.get(name).cloned()
        }
        fn executable(&self) -> Option<PathBuf> {
            self.exe.clone()
        }
        fn output(&self, program: &str, _: &[&str]) -> Option<String> {
            self.outputs.get(program).cloned()
        }
    }

    fn library(version: &str) -> String {
        let (prefix, suffix) = (env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX);
        format!("{prefix}onnxruntime{suffix}{version}")
    }

    fn touch(path: &Path) -> PathBuf {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
        path.to_owned()
    }

    #[test]
    fn only_the_library_itself_is_one() {
        let (prefix, suffix) = (env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX);
        assert!(is_library(Path::new(&library(""))) && is_library(Path::new(&library(".1.32.0"))));
        assert!(is_library(Path::new(&format!("{prefix}onnxruntime.1.32.0{suffix}"))));
        for other in ["onnxruntime_providers_shared", "onnxruntime_pybind11_state", "onnx"] {
            assert!(!is_library(Path::new(&format!("{prefix}{other}{suffix}"))), "{other}");
        }
        assert!(!is_library(Path::new("onnxruntime")) && !is_library(Path::new("/")));
    }

    #[test]
    fn places_come_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| touch(&dir.path().join(path).join(library(".1.20.1")));
        let mut machine = Imagined { exe: Some(dir.path().join("app/bin/onnx-prune")), ..Default::default() };
        let mut expected = vec![at("app/bin"), at("app/lib/python3.12/site-packages/onnxruntime/capi")];
        for (variable, root) in [("VIRTUAL_ENV", "venv"), ("CONDA_PREFIX", "conda")] {
            machine.vars.insert(variable, dir.path().join(root).into());
            expected.push(at(&format!("{root}/lib/python3.11/site-packages/onnxruntime/capi")));
        }
        expected.push(at("user/onnxruntime/capi"));
        machine.outputs.insert("python3", format!("{}\n", dir.path().join("user/onnxruntime").display()));
        if cfg!(target_os = "linux") {
            let path = PathBuf::from(format!("/usr/lib/{}", library(".1")));
            machine
                .outputs
                .insert("ldconfig", format!("2 libs found\n\tx (libc6) => {}\n\ty => /usr/lib/y\n", path.display()));
            expected.push(path);
        }
        let found: Vec<PathBuf> = places(None, &machine).flat_map(|place| place.libraries).collect();
        assert_eq!(found, expected);
        assert!(places(None, &machine).all(|place| !place.named));
    }

    #[test]
    fn what_is_named_is_the_only_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = touch(&dir.path().join(library(".1.20.1"))).canonicalize().unwrap();
        let mut machine = Imagined::default();
        machine.vars.insert(VARIABLE, path.clone().into());
        let found: Vec<Place> = places(None, &machine).collect();
        assert_eq!(found.len(), 1);
        assert!(found[0].named && found[0].libraries == [path.clone()] && found[0].name.starts_with(VARIABLE));
        for given in [dir.path(), &path] {
            let found: Vec<Place> = places(Some(given), &machine).collect();
            assert_eq!(
                found.iter().map(|p| p.libraries[0].canonicalize().unwrap()).collect::<Vec<_>>(),
                std::slice::from_ref(&path)
            );
        }
    }

    #[test]
    fn a_bare_machine_has_places_and_no_library() {
        let found: Vec<Place> = places(None, &Imagined::default()).collect();
        assert_eq!(found.len(), 6);
        assert!(cfg!(target_os = "macos") || found.iter().all(|place| place.libraries.is_empty()));
    }

    #[test]
    fn versions_are_read_from_names() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(version(&touch(&dir.path().join(library(".1.32.0")))).as_deref(), Some("1.32.0"));
        assert_eq!(version(&touch(&dir.path().join(library(".1")))), None);
        let inside = touch(&dir.path().join(CAPI).join(library("")));
        assert_eq!(version(&inside), None);
        fs::create_dir(dir.path().join("onnxruntime_gpu-1.21.0.dist-info")).unwrap();
        assert_eq!(version(&inside).as_deref(), Some("1.21.0"));
    }
}
