from dira_scale.toy import main

if __name__ == "__main__":
    raise SystemExit(main())
