//! A Slurm array job.

use super::Job;

/// A script for `sbatch`. `options` are further lines `#SBATCH …`, such as a partition or a limit of time.
pub fn script(job: &Job, options: &[String]) -> String {
    let mut text = format!(
        "#!/bin/bash\n#SBATCH --job-name={}\n#SBATCH --array=1-{}\n#SBATCH --ntasks=1\n#SBATCH --cpus-per-task={}\n\
         #SBATCH --mem={}M\n#SBATCH --requeue\n#SBATCH --output={}/slurm-%A_%a.log\n",
        job.name,
        job.workers,
        job.cores,
        job.mebibytes(),
        job.store.display()
    );
    if job.gpus > 0 {
        text += &format!("#SBATCH --gpus-per-task={}\n", job.gpus);
    }
    for option in options {
        text += &format!("#SBATCH {option}\n");
    }
    text + "\nset -eu\nexec " + &job.command("$SLURM_ARRAY_TASK_ID") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_array_for_all_members() {
        let job = Job {
            program: "/opt/onnx-prune".into(),
            spec: "/data/it's.toml".into(),
            store: "/data/store".into(),
            workers: 12,
            cores: 4,
            memory: (3 << 30) + 1,
            gpus: 1,
            name: "sweep".into(),
        };
        let text = script(&job, &["--partition=long".into()]);
        for line in
            ["#SBATCH --array=1-12", "#SBATCH --mem=3073M", "#SBATCH --gpus-per-task=1", "#SBATCH --partition=long"]
        {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
        let last = text.lines().last().unwrap();
        assert_eq!(
            last,
            r#"exec '/opt/onnx-prune' sweep '/data/it'\''s.toml' --store '/data/store' --worker "$SLURM_ARRAY_TASK_ID/12""#
        );
    }
}
