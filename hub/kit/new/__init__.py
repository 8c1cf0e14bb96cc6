"""The files that `hub connector new` begins with; everything in them is called acme."""
