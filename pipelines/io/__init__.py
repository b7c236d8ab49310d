"""What the jobs read and write: files of any filesystem, Arrow tables, TFRecords."""
