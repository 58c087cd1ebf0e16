//! An indexed Job of Kubernetes.

use super::Job;
use crate::error::{Error, Result};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// What a cluster has to offer.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// The container image, with this program and, for ONNX Runtime, its library.
    pub image: String,
    /// The PersistentVolumeClaim that all members mount, of the kind that many may write.
    pub claim: String,
    /// Where it is mounted; everything that is read or written lies below.
    pub mount: PathBuf,
    /// The namespace; without one, that of the context.
    pub namespace: Option<String>,
}

/// A manifest for `kubectl create -f -`, in JSON, which kubectl takes as it takes YAML. A member that fails is tried again up
/// to three times, on another node where there is one.
///
/// # Errors
/// When something that is read or written does not lie below the mount.
pub fn manifest(job: &Job, place: &Place, paths: &[&Path]) -> Result<Value> {
    let outside = paths.iter().copied().chain([job.spec.as_path(), &job.store]).find(|p| !p.starts_with(&place.mount));
    if let Some(path) = outside {
        return Err(Error::Usage(format!(
            "{}: does not lie below {}, where the claim {} is mounted, so no pod would see it; move it there, or give another \
             --mount",
            path.display(),
            place.mount.display(),
            place.claim
        )));
    }
    let mut limits = json!({"memory": format!("{}Mi", job.mebibytes())});
    if let (Some(map), true) = (limits.as_object_mut(), job.gpus > 0) {
        map.insert("nvidia.com/gpu".into(), json!(job.gpus));
    }
    let mut requests = limits.clone();
    if let Some(map) = requests.as_object_mut() {
        map.insert("cpu".into(), json!(job.cores.to_string()));
    }
    let command = format!("exec {}", job.command("$((JOB_COMPLETION_INDEX + 1))"));
    let mut metadata =
        json!({"generateName": format!("{}-", job.name), "labels": {"app.kubernetes.io/name": "onnx-prune"}});
    if let (Some(map), Some(namespace)) = (metadata.as_object_mut(), &place.namespace) {
        map.insert("namespace".into(), json!(namespace));
    }
    Ok(json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "completionMode": "Indexed",
            "completions": job.workers,
            "parallelism": job.workers,
            "backoffLimitPerIndex": 3,
            "maxFailedIndexes": job.workers,
            "template": {
                "metadata": {"labels": {"app.kubernetes.io/name": "onnx-prune"}},
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [{
                        "name": "worker",
                        "image": place.image,
                        "command": ["/bin/sh", "-c", command],
                        "resources": {"requests": requests, "limits": limits},
                        "volumeMounts": [{"name": "work", "mountPath": place.mount}]
                    }],
                    "volumes": [{"name": "work", "persistentVolumeClaim": {"claimName": place.claim}}]
                }
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pods_would_not_see_is_refused() {
        let job = Job {
            program: "onnx-prune".into(),
            spec: "/mnt/sweep.toml".into(),
            store: "/mnt/store".into(),
            workers: 3,
            cores: 2,
            memory: 1 << 30,
            gpus: 0,
            name: "sweep".into(),
        };
        let place = Place { image: "i".into(), claim: "c".into(), mount: "/mnt".into(), namespace: Some("n".into()) };
        let made = manifest(&job, &place, &[Path::new("/mnt/m.onnx")]).unwrap();
        assert_eq!(made.pointer("/spec/completions"), Some(&json!(3)));
        assert_eq!(made.pointer("/metadata/namespace"), Some(&json!("n")));
        let command = made.pointer("/spec/template/spec/containers/0/command/2").and_then(Value::as_str).unwrap();
        assert!(command.ends_with(r#"--worker "$((JOB_COMPLETION_INDEX + 1))/3""#), "{command}");
        let error = manifest(&job, &place, &[Path::new("/home/m.onnx")]).unwrap_err().to_string();
        assert!(error.starts_with("/home/m.onnx: does not lie below /mnt"), "{error}");
    }
}
