"""The main job, watched: devices work offline, disagree, sync through a bad network and outlive the cloud."""
